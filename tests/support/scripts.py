"""Scripts for the scripted engine: the steps that the model generates."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from precall_service.domain.errors import ServiceError
from precall_service.domain.turn import ToolChoiceMode
from precall_service.engine.base import (
    CallBegun,
    CallPiece,
    CallUnreadable,
    CallWritten,
    Chunk,
    EngineDiedError,
    Finish,
    Piece,
    Priority,
    ReasoningPiece,
    StepSpec,
    StrayCall,
    TextPiece,
)
from precall_service.engine.vllm.token_prompt import TokenPrompt
from tests.support import scripted_template as template


@dataclass(frozen=True, slots=True)
class Pause:
    """Suspends the generation until the event is set or the engine dies."""

    event: asyncio.Event


def never() -> Pause:
    """Suspends the generation until the engine dies or the step is aborted."""
    return Pause(asyncio.Event())


@dataclass(frozen=True, slots=True)
class Tick:
    """Lets the event loop run once."""


TICK = Tick()


@dataclass(frozen=True, slots=True)
class Unsure:
    """A piece whose tokens have this log probability each. The tokens of other pieces have 0."""

    piece: Piece
    log_probability: float


@dataclass(frozen=True, slots=True)
class Ends:
    """Says how the step ends: by a stop text, with a call that was meant but not made, or cut."""

    stop_text: str = ""
    stray_call: StrayCall | None = None
    cut_after_call: bool = False


Item: TypeAlias = Piece | Unsure | Ends | Pause | Tick | ServiceError | EngineDiedError
"""An item of a step. An error is raised when the generation reaches it. A scripted EngineDiedError
leaves the engine alive."""

Step: TypeAlias = Sequence[Item]
Script: TypeAlias = Callable[[TokenPrompt, StepSpec], Step]


class StepWriter:
    """Writes a step as the model's tokens, which are characters, up to a limit."""

    def __init__(self, max_tokens: int) -> None:
        self._left = max_tokens
        self._parts: list[str] = []
        self._thinking = False
        self.reasoning_tokens = 0
        self.full = False
        """Whether a piece did not fit. Nothing is written after that."""

    def fits(self, piece: TextPiece) -> bool:
        """Writes a piece of text if all of it fits. If not, the caller must use `write`."""
        left = self._left - len(piece.text)
        if left < 0 or self._thinking:
            return False
        self._left = left
        self._parts.append(piece.text)
        return True

    def write(self, item: Piece | Unsure) -> Chunk:
        """Writes a piece, or the part of it that fits. Returns the chunk of what was written."""
        if isinstance(item, Unsure):
            piece, log_probability = item.piece, item.log_probability
        else:
            piece, log_probability = item, 0.0
        first = len(self._parts)
        pieces = self._written(piece)
        tokens = template.tokens("".join(self._parts[first:]))
        return Chunk(tokens, tuple(pieces), (log_probability,) * len(tokens))

    def _written(self, piece: Piece) -> list[Piece]:
        match piece:
            case ReasoningPiece(text):
                opened = self._thinking or bool(self._add(template.THINK))
                self._thinking = True
                written = self._add(text) if opened else ""
                self.reasoning_tokens += len(written)
                return [ReasoningPiece(written)] if written else []
            case TextPiece(text):
                written = self._add_after_thought(text)
                return [TextPiece(written)] if written else []
            case CallBegun(tool_name=name):
                self._add_after_thought(template.call_head(name))
                return [] if self.full else [piece]
            case CallPiece(index, fragment):
                written = self._add(fragment)
                return [CallPiece(index, written)] if written else []
            case CallWritten() | CallUnreadable():
                self._add(template.CALL_END)
                return [piece]

    @property
    def text(self) -> str:
        """The text that was written, without the end of the message."""
        return "".join(self._parts)

    @property
    def finish(self) -> Finish:
        """The finish; LENGTH if a piece or the token that ends the message did not fit."""
        return Finish.LENGTH if self.full or self._left == 0 else Finish.STOP

    def _add_after_thought(self, text: str) -> str:
        if self._thinking:
            self._thinking = False
            self._add(template.THINK_END)
        return self._add(text)

    def _add(self, text: str) -> str:
        """Writes the part of the text that fits and returns it."""
        written = text[: self._left]
        self.full = self.full or len(written) < len(text)
        self._left -= len(written)
        self._parts.append(written)
        return written


def one_by_one(step: Step) -> list[Item]:
    """Returns the step with a pause after each piece, so that no pieces are joined on their way."""
    return [item for piece in step for item in (piece, TICK)]


def says(*texts: str) -> list[Item]:
    """Items that generate text, one piece for each argument."""
    return [TextPiece(text) for text in texts]


def thinks(*texts: str) -> list[Item]:
    """Items that generate reasoning, one piece for each argument."""
    return [ReasoningPiece(text) for text in texts]


def calls(*named_arguments: tuple[str, str], first: int = 0) -> list[Item]:
    """Items that generate calls, given as (tool name, JSON arguments), in two pieces each."""
    items: list[Item] = []
    for index, (name, arguments) in enumerate(named_arguments, start=first):
        half = len(arguments) // 2
        items += [CallBegun(index, name), CallPiece(index, arguments[:half])]
        items += [CallPiece(index, arguments[half:]), CallWritten(index)]
    return items


def unsure(items: Step, log_probability: float) -> list[Item]:
    """The items, their pieces with tokens of this log probability."""
    return [Unsure(item, log_probability) if isinstance(item, Piece) else item for item in items]


def in_turn(*steps: Step, branches: Script | Sequence[Step] = ()) -> Script:
    """A script that generates the steps in order, for any prompts.

    Branches off these steps are generated by a script of their own, or are `branches` in order.
    A branch that is left over ends without a call.
    """
    rest = iter(steps)
    branch = branches if callable(branches) else _in_order(branches)

    def script(prompt: TokenPrompt, spec: StepSpec) -> Step:
        if spec.priority is Priority.SPECULATES:
            return branch(prompt, spec)
        step = next(rest, None)
        assert step is not None, f"no step is left in the script for {spec.step_id}"
        return step

    return script


def _in_order(steps: Sequence[Step]) -> Script:
    rest = iter(steps)
    return lambda _prompt, _spec: next(rest, ())


def always(step: Step) -> Script:
    """A script that generates the same step for every prompt."""
    return lambda _prompt, _spec: step


def obedient(prompt: TokenPrompt, spec: StepSpec) -> Step:
    """A script that makes a call if the tool choice demands one, else text up to the limit.

    With `enable_thinking` it thinks before that, unless the prompt has ended the thought.
    """
    if spec.template_variables.get("enable_thinking") and not template.prompt_text(prompt).endswith(
        template.THINK_END
    ):
        return [*thinks("Well, ", "let me see."), *_obeys(spec)]
    return _obeys(spec)


def _obeys(spec: StepSpec) -> Sequence[Item]:
    choice = spec.tool_choice
    match choice.mode:
        case ToolChoiceMode.NAMED:
            return calls((choice.tool_name, json.dumps({"city": "Paris"})))
        case ToolChoiceMode.REQUIRED:
            return calls((spec.tools[0].name, json.dumps({"city": "Paris"})))
        case ToolChoiceMode.AUTO | ToolChoiceMode.NONE:
            return [item for _ in range(spec.max_tokens) for item in (TextPiece("word "), TICK)]
