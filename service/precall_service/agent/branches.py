"""Branches of the model: short generations off a running step, below every step in priority.

A branch skips the rest of the reasoning and writes the calls that the model would make now. It
lives on what the admission leaves free: it starts only if a slot of the engine is free, and ends
when a turn needs that slot, or when tokens come too slowly for any speculation.

Owns: the branches that run.
"""

from __future__ import annotations

import asyncio
import math
import secrets
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, replace
from functools import partial

from precall_service.admission import Admission
from precall_service.agent.engine_load import LoadWatch
from precall_service.agent.room import within_room
from precall_service.agent.written_calls import WrittenCalls
from precall_service.domain.errors import ServiceError
from precall_service.domain.turn import GenerationSettings, ToolChoiceMode
from precall_service.engine.base import (
    Chunk,
    Engine,
    EngineDiedError,
    Priority,
    Prompt,
    StepSpec,
    TextPiece,
)
from precall_service.speculation.base import Branch, Candidate

TEXT_CHARS_MAX = 64
"""A branch that writes more text than this before its first call is taken for an answer."""


@dataclass(frozen=True, slots=True)
class _Origin:
    """A step, and the tokens that it had sampled when a branch was made possible."""

    engine: Engine
    prompt: Prompt
    sampled: tuple[int, ...]
    spec: StepSpec
    on_begin: Callable[[], None]


class Branches:
    """The branches of all turns."""

    def __init__(
        self, load: LoadWatch, admission: Admission, *, branches_max: int, tokens_max: int
    ) -> None:
        self._load = load
        self._admission = admission
        self._branches_max = branches_max
        self._tokens_max = tokens_max
        self._running: dict[asyncio.Task[object], None] = {}

    @property
    def running(self) -> int:
        """The number of branches that run."""
        return len(self._running)

    def make_room(self, slots: int) -> None:
        """Ends the youngest branches that hold slots which admitted turns need."""
        kept = max(0, slots - self._admission.admitted)
        for task in tuple(self._running)[kept:]:
            if not task.cancelling():  # a second time would cut its abort short
                task.cancel()

    def off(
        self,
        engine: Engine,
        prompt: Prompt,
        token_ids: Sequence[int],
        spec: StepSpec,
        on_begin: Callable[[], None],
    ) -> Branch | None:
        """Returns the way to branch off a step that has sampled these tokens.

        None if a branch could make no call. `on_begin` is called whenever a branch begins.
        """
        if not spec.tools or spec.tool_choice.mode is ToolChoiceMode.NONE:
            return None
        return partial(self._branch, _Origin(engine, prompt, tuple(token_ids), spec, on_begin))

    async def _branch(
        self, origin: _Origin, temperature: float, calls_max: int
    ) -> AsyncGenerator[Candidate, None]:
        engine, spec = origin.engine, origin.spec
        if not self._has_room(engine):
            return
        with self._counted():
            try:
                start = await engine.branch(origin.prompt, origin.sampled, spec)
                if start is None:
                    return
                tokens_max = within_room(engine, start, self._tokens_max)
                if tokens_max <= 0:
                    return
                origin.on_begin()
                branch_spec = replace(
                    spec,
                    step_id=f"{spec.step_id}-{secrets.token_hex(4)}",
                    max_tokens=tokens_max,
                    generation=GenerationSettings(
                        temperature=temperature, tool_choice=spec.tool_choice
                    ),
                    priority=Priority.SPECULATES,
                    log_probabilities=True,
                )
                reader = _CandidateReader()
                async with aclosing(engine.generate(start, branch_spec)) as chunks:
                    async for chunk in chunks:
                        if not isinstance(chunk, Chunk) or not self._admission.speculation_width:
                            return
                        for candidate in reader.read(chunk):
                            yield candidate
                        if reader.written >= calls_max or reader.text_chars > TEXT_CHARS_MAX:
                            return
            except (EngineDiedError, ServiceError):
                return  # the step that runs beside it tells the client what happened

    def _has_room(self, engine: Engine) -> bool:
        allowed = math.ceil(self._load.allowance() * self._branches_max)
        free = engine.info.sequences_max - self._admission.admitted
        return len(self._running) < min(allowed, free)

    @contextmanager
    def _counted(self) -> Generator[None]:
        task = asyncio.current_task()
        assert task is not None
        self._running[task] = None
        try:
            yield
        finally:
            self._running.pop(task, None)


class _CandidateReader:
    """Reads the calls of a branch, each with the probability that the model gave to its tokens."""

    def __init__(self) -> None:
        self.text_chars = 0
        self.written = 0
        """How many calls are complete."""
        self._log_probability = 0.0
        self._calls = WrittenCalls()

    def read(self, chunk: Chunk) -> list[Candidate]:
        """Returns the calls that a chunk completes."""
        self._log_probability += sum(chunk.log_probabilities)
        found: list[Candidate] = []
        for piece in chunk.pieces:
            if isinstance(piece, TextPiece) and not self._calls.begun:
                self.text_chars += len(piece.text.strip())
            if (call := self._calls.read(piece)) is not None:
                self.written += 1
                name, arguments_json = call
                found.append(
                    Candidate(
                        tool_name=name,
                        arguments_json=arguments_json,
                        probability=min(1.0, math.exp(self._log_probability)),
                    )
                )
        return found
