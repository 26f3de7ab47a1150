"""Keeps what one step has sampled so far, and how many of its calls count.

Never: the engine that samples, or the parser that reads.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from vllm.outputs import RequestOutput

from precall_service.engine.base import CallBegun, Finish, Piece
from precall_service.engine.drafts import VerifiedDraft
from precall_service.engine.vllm.drafting import NumberedDrafts
from precall_service.engine.vllm.parsing import StepParser


@dataclass(slots=True)
class Sampled:
    """The tokens and texts that a step has generated so far.

    `numbered` are the drafts of the step; None if the engine verifies none.
    """

    prompt_tokens: int
    numbered: NumberedDrafts | None = None
    token_ids: list[int] = field(default_factory=list[int])
    texts: list[str] = field(default_factory=list[str])
    cached_tokens: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    drafts: tuple[VerifiedDraft, ...] = ()

    def add(self, output: RequestOutput) -> None:
        """Takes the next output of the engine."""
        completion = output.outputs[0]
        self.token_ids += completion.token_ids
        self.texts.append(completion.text)
        if output.num_cached_tokens:
            self.cached_tokens = output.num_cached_tokens
        metrics = completion.spec_decode_metrics
        if metrics is not None:
            self.drafted_tokens = metrics.num_draft_tokens
            self.accepted_tokens = sum(
                accepted * steps for accepted, steps in enumerate(metrics.histogram)
            )
            if self.numbered is not None:
                counts = zip(metrics.per_step_drafted, metrics.per_step_accepted, strict=True)
                self.drafts = self.numbered.verified(counts)

    def ending(self, parser: StepParser | None, finish: Finish) -> Iterable[Piece]:
        """The pieces that the parser still holds back when the step ends."""
        if parser is None:
            return ()
        return parser.end(finish, "".join(self.texts), self.token_ids)


class CallLimit:
    """Lets the pieces of so many calls pass; None: of any number.

    The step is then over: the template would refuse a message with one call more, after its tools
    have run.
    """

    def __init__(self, calls_max: int | None) -> None:
        self._calls_max = calls_max
        self.exceeded = False

    def within(self, pieces: Iterable[Piece]) -> Iterator[Piece]:
        """The pieces before the first call that is too many."""
        for piece in () if self.exceeded else pieces:
            if isinstance(piece, CallBegun) and piece.index == self._calls_max:
                self.exceeded = True
                return
            yield piece
