"""Reads one generation: pieces become events at once, and at its end the assistant message."""

from __future__ import annotations

import secrets
import string
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field

from precall_service.domain.clock import Clock
from precall_service.domain.events import (
    ReasoningDelta,
    TextDelta,
    ToolCallArgumentsDelta,
    ToolCallReady,
    ToolCallStarted,
    TurnEvent,
)
from precall_service.domain.messages import AssistantMessage, ToolCall
from precall_service.engine.base import (
    CallBegun,
    CallPiece,
    CallWritten,
    Delta,
    Finish,
    ReasoningPiece,
    StepEnd,
    TextPiece,
)

Emit = Callable[[TurnEvent], Awaitable[None]]

_CALL_ID_ALPHABET = string.ascii_letters + string.digits
_CALL_ID_LENGTH = 9  # what Mistral's templates insist on, and enough for one conversation


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A step that ended by itself: what the model said, and the tokens it said it in.

    `text` is what the client was told; the message's is more where a cut left calls unfinished.
    """

    text: str
    message: AssistantMessage
    end: StepEnd


@dataclass(slots=True)
class _Call:
    call_id: str
    tool_name: str
    pieces: list[str] = field(default_factory=list[str])
    ready_at: float | None = None

    def finished(self) -> ToolCall:
        return ToolCall(
            call_id=self.call_id, tool_name=self.tool_name, arguments_json="".join(self.pieces)
        )


class StepReader:
    """What the client was told of a step so far; also what stood when it was cut off.

    A piece counts once it is told: a cut may catch it on its way, and then it never was.
    """

    def __init__(self, emit: Emit, clock: Clock, on_first_piece: Callable[[], None]) -> None:
        self._emit = emit
        self._clock = clock
        self._on_first_piece = on_first_piece
        self.begun = False
        """Whether anything was generated: the prompt was computed."""
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._calls: dict[int, _Call] = {}

    @property
    def text(self) -> str:
        """The text so far."""
        return "".join(self._text)

    @property
    def calls_told(self) -> dict[str, float]:
        """The calls that the client was told of, with when they were ready (now: never yet)."""
        now = self._clock.now()
        calls = self._calls.values()
        return {call.call_id: now if call.ready_at is None else call.ready_at for call in calls}

    async def read(self, deltas: AsyncGenerator[Delta, None]) -> Step:
        """Reads the generation to its end.

        A step that a limit cut made no calls, nor did one that ended inside its only call: its
        raw text stands in the message instead, so that the transcript says what the tokens say.

        Raises:
            EngineDiedError, GenerationRefusedError: from the engine.
        On cancel: the generation is aborted; what was read so far can still be asked for.
        """
        async with aclosing(deltas) as pieces:
            async for delta in pieces:
                if type(delta) is StepEnd:
                    return self._finished(delta)
                if not self.begun:
                    self._on_first_piece()
                    self.begun = True
                if type(delta) is TextPiece:  # first, and without `match`: the hot path
                    await self._emit(TextDelta(delta.text))
                    self._text.append(delta.text)
                else:
                    await self._read_other(delta)
        raise AssertionError("the engine ended a generation without a StepEnd")

    async def _read_other(self, delta: Delta) -> None:
        match delta:
            case ReasoningPiece(text):
                await self._emit(ReasoningDelta(text))
                self._reasoning.append(text)
            case CallBegun(index, tool_name):
                call = _Call(_new_call_id(), tool_name)
                await self._emit(ToolCallStarted(call.call_id, tool_name))
                self._calls[index] = call
            case CallPiece(index, fragment):
                call = self._calls[index]
                call.pieces.append(fragment)
                await self._emit(ToolCallArgumentsDelta(call.call_id, fragment))
            case CallWritten(index):
                call = self._calls[index]
                call.ready_at = self._clock.now()
                done = call.finished()
                await self._emit(ToolCallReady(done.call_id, done.tool_name, done.arguments_json))
            case TextPiece() | StepEnd():
                raise AssertionError("read by the caller")

    def _finished(self, end: StepEnd) -> Step:
        calls = [call for call in self._calls.values() if call.ready_at is not None]
        if self._calls and (end.finish is Finish.LENGTH or not calls):
            return Step(text=self.text, message=AssistantMessage(text=end.raw_text), end=end)
        return Step(
            text=self.text,
            message=AssistantMessage(
                text=self.text,
                reasoning="".join(self._reasoning),
                tool_calls=tuple(call.finished() for call in calls),
            ),
            end=end,
        )


def _new_call_id() -> str:
    return "".join(secrets.choice(_CALL_ID_ALPHABET) for _ in range(_CALL_ID_LENGTH))
