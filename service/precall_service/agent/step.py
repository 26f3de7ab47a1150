"""Reads one generation: sends its pieces to the client as they come, and returns its message."""

from __future__ import annotations

import secrets
import string
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TypeAlias

from precall_service.agent.account import Piece, Sampled, TurnAccount
from precall_service.agent.outbox import Emit
from precall_service.domain.clock import Clock
from precall_service.domain.events import (
    ReasoningDelta,
    StepFinishReason,
    TextDelta,
    ToolCallArgumentsDelta,
    ToolCallReady,
    ToolCallStarted,
)
from precall_service.domain.messages import AssistantMessage, ToolCall
from precall_service.engine import base
from precall_service.engine.base import Finish, StepEnd, StepStream, StrayCall

_CALL_ID_ALPHABET = string.ascii_letters + string.digits
_UNFINISHED = "the message ended before the arguments did: write the whole call again"
_Told: TypeAlias = (
    base.TextPiece | base.ReasoningPiece | base.CallBegun | base.CallPiece | base.CallWritten
)
_CALL_ID_LENGTH = 9  # Mistral's templates require it, and it is enough for one conversation


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A step that was not aborted: its message and its tokens.

    `text` is the text that was sent to the client. The text of the message is longer if the step
    ended inside its calls. `unreadable` are the calls that must not run, by id, each with what the
    model is told of it.
    """

    text: str
    message: AssistantMessage
    end: StepEnd
    unreadable: Mapping[str, str] = field(default_factory=dict[str, str])
    cut_by_stop_text: bool = False
    """Whether a stop text ended the step inside a call."""

    @property
    def readable(self) -> tuple[str, ...]:
        """The names of the tools whose calls may run."""
        return tuple(
            call.tool_name
            for call in self.message.tool_calls
            if call.call_id not in self.unreadable
        )

    @property
    def finish(self) -> StepFinishReason:
        """Why the step ended."""
        if self.message.tool_calls:
            return StepFinishReason.TOOL_CALLS
        return (
            StepFinishReason.LENGTH if self.end.finish is Finish.LENGTH else StepFinishReason.STOP
        )


@dataclass(slots=True)
class _Call:
    call_id: str
    tool_name: str
    written_id: str
    fragments: list[str] = field(default_factory=list[str])
    ready_at: float | None = None
    problem: str = ""
    """Why the call must not run."""

    def written(self) -> ToolCall:
        """The call; without its arguments if they are not what the model meant."""
        return ToolCall(
            call_id=self.call_id,
            tool_name=self.tool_name,
            arguments_json="{}" if self.problem else "".join(self.fragments),
            written_id=self.written_id,
        )


class StepReader:
    """Reads one step, and knows what was sent to the client, even if the step is aborted.

    A piece counts once it has been sent. A piece that was still waiting to be sent when the step
    was aborted does not.
    """

    def __init__(self, account: TurnAccount, emit: Emit, clock: Clock) -> None:
        self._account = account
        self._emit = emit
        self._clock = clock
        self.begun = False
        """Whether the prompt was computed and a token sampled."""
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._calls: dict[int, _Call] = {}
        self._calls_told: set[str] = set()

    @property
    def text(self) -> str:
        """The text that was sent to the client so far."""
        return "".join(self._text)

    @property
    def calls_told(self) -> dict[str, float]:
        """The calls sent to the client, each with the time it was ready (now if it is not)."""
        now = self._clock.now()
        return {
            call.call_id: now if call.ready_at is None else call.ready_at
            for call in self._calls.values()
            if call.call_id in self._calls_told
        }

    async def read(self, stream: StepStream) -> Step:
        """Reads the generation to its end and returns the step.

        A step with calls makes none of them if a limit or a stop text cut it inside one. Its
        message then holds its raw text, so that the transcript matches the tokens. A call that the
        model left unfinished by itself is one that cannot be read.

        Raises:
            EngineDiedError, ServiceError: from the engine.
        On cancel: the generation is aborted; `text` and `calls_told` remain valid.
        """
        asked_at = self._clock.now()
        async with aclosing(stream) as chunks:
            async for chunk in chunks:
                if isinstance(chunk, StepEnd):
                    return self._finished(chunk)
                self.begun = True
                pieces = self._pieces(chunk.pieces)
                self._account.note(Sampled(chunk.token_ids, pieces, asked_at))
                for piece in pieces:
                    await self._emit(piece)
                    self._told(piece)
                asked_at = self._clock.now()
        raise AssertionError("the engine ended a generation without a StepEnd")

    def _pieces(self, pieces: Sequence[base.Piece]) -> tuple[Piece, ...]:
        """Returns the events for pieces. A call that cannot be read is told when it is answered."""
        if len(pieces) == 1 and type(pieces[0]) is base.TextPiece:  # the hot path
            return (TextDelta(pieces[0].text),)
        told: list[Piece] = []
        for piece in pieces:
            if isinstance(piece, base.CallUnreadable):
                call = self._calls[piece.index]
                call.ready_at, call.problem = self._clock.now(), piece.problem
            else:
                told.append(self._piece(piece))
        return tuple(told)

    def _piece(self, piece: _Told) -> Piece:
        """Returns the event for a piece."""
        match piece:
            case base.TextPiece(text):
                return TextDelta(text)
            case base.ReasoningPiece(text):
                return ReasoningDelta(text)
            case base.CallBegun(index, tool_name, written_id):
                call = self._calls[index] = _Call(_new_call_id(), tool_name, written_id)
                return ToolCallStarted(call.call_id, tool_name)
            case base.CallPiece(index, fragment):
                call = self._calls[index]
                call.fragments.append(fragment)
                return ToolCallArgumentsDelta(call.call_id, fragment)
            case base.CallWritten(index):
                call = self._calls[index]
                call.ready_at = self._clock.now()
                written = call.written()
                return ToolCallReady(call.call_id, call.tool_name, written.arguments_json)

    def _told(self, piece: Piece) -> None:
        if type(piece) is TextDelta:  # the hot path, as above
            self._text.append(piece.text)
            return
        match piece:
            case ReasoningDelta(text):
                self._reasoning.append(text)
            case ToolCallStarted(call_id):
                self._calls_told.add(call_id)
            case TextDelta() | ToolCallArgumentsDelta() | ToolCallReady():
                pass

    def _finished(self, end: StepEnd) -> Step:
        calls = self._calls.values()
        unfinished = [call for call in calls if call.ready_at is None]
        unsure = bool(unfinished) or any(call.problem for call in calls)
        cut_by_stop_text = bool(end.stop_text) and (unsure or end.stray_call is StrayCall.OPEN)
        if cut_by_stop_text or (calls and end.finish is Finish.LENGTH):
            return Step(
                text=self.text,
                message=AssistantMessage(text=end.raw_text),
                end=end,
                cut_by_stop_text=cut_by_stop_text,
            )
        for call in unfinished:
            call.problem = _UNFINISHED
        return Step(
            text=self.text,
            message=AssistantMessage(
                text=self.text,
                reasoning="".join(self._reasoning),
                tool_calls=tuple(call.written() for call in calls),
            ),
            end=end,
            unreadable={call.call_id: call.problem for call in calls if call.problem},
        )


def _new_call_id() -> str:
    return "".join(secrets.choice(_CALL_ID_ALPHABET) for _ in range(_CALL_ID_LENGTH))
