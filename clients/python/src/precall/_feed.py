"""The events of one turn on their way from the stream to its reader, and its answer.

Owns: the parts of the events that the answer needs.
Concurrency: the reader of the stream puts and never waits; one reader of the turn takes. Both run
on one event loop.
"""

from __future__ import annotations

import asyncio
import contextvars
import dataclasses

from precall import _events
from precall._errors import PrecallError, ServerError
from precall._events import Event
from precall._messages import Answer, ToolCall
from precall._waiting import WaitingEvents

_UNANSWERED = frozenset({_events.TurnOutcome.FAILED, _events.TurnOutcome.NO_CALL})


class TurnFeed:
    """Carries the events of one turn to its reader. Made by the caller that sends the turn."""

    def __init__(self, turn_id: str, waiting_events_max: int) -> None:
        self.turn_id = turn_id
        self.context = contextvars.copy_context()
        """The context variables of the turn's sender, which its handlers see."""
        self.frame_sequence = 0
        """Number of the StartTurn frame; 0 before it is sent."""
        self.cancel_sent = False
        """Whether the server has been told to end the turn."""
        self._waiting = WaitingEvents(waiting_events_max)
        self._readable = asyncio.Event()
        self._ended = asyncio.Event()
        self._abandoned = False
        self._answer: Answer | None = None
        self._error: PrecallError | None = None
        self._calls: dict[str, ToolCall] = {}
        self._reasoning: list[str] = []

    @property
    def ended(self) -> bool:
        """Whether the turn has ended, so that no more events come."""
        return self._ended.is_set()

    @property
    def abandoned(self) -> bool:
        """Whether the loop over the events was left before their end."""
        return self._abandoned

    def put(self, event: Event) -> None:
        """Takes the next event. Events of an abandoned turn count only for its answer."""
        self._remember(event)
        if isinstance(event, _events.TurnCompleted):
            if event.outcome in _UNANSWERED:
                self.end(event.error or ServerError("the turn failed without an error"))
                return
            self._answer = self._answer_of(event)
        if not self._abandoned:
            self._waiting.put(event)
            self._readable.set()
        if self._answer is not None:
            self._end()

    def end(self, error: PrecallError) -> None:
        """Ends the turn with an error. Later endings are ignored."""
        if not self.ended:
            self._error = error
            self._end()

    def abandon(self) -> None:
        """Notes that the turn has lost its reader. It wakes nothing, so a finaliser may call it."""
        self._abandoned = True

    def discard(self) -> None:
        """Abandons the turn, and drops the events that wait."""
        self._abandoned = True
        self._waiting.clear()

    async def next(self) -> Event | None:
        """Returns the next event; None when the turn has ended and every event was read."""
        while not self._waiting:
            if self.ended:
                return None
            self._readable.clear()
            await self._readable.wait()
        return self._waiting.take()

    async def answer(self) -> Answer:
        """Waits for the end of the turn and returns its answer.

        Raises:
            NoCallError: The model did not make a call that it meant or had to make.
            PrecallError: The turn failed.
        """
        await self._ended.wait()
        if self._answer is None:
            raise self._error or ServerError("the turn ended without an answer")
        return self._answer

    async def wait_ended(self) -> None:
        """Waits for the end of the turn, whether it failed or not."""
        await self._ended.wait()

    def _end(self) -> None:
        self._ended.set()
        self._readable.set()

    def _remember(self, event: Event) -> None:
        match event:
            case _events.ReasoningDelta(text):
                self._reasoning.append(text)
            case _events.ToolCallStarted(call_id, tool_name):
                self._calls[call_id] = ToolCall(call_id, tool_name, "")
            case _events.ToolCallReady(call_id, tool_name, arguments_json):
                self._calls[call_id] = ToolCall(call_id, tool_name, arguments_json)
            case _events.ToolCallCompleted(call_id) if call_id in self._calls:
                self._calls[call_id] = dataclasses.replace(
                    self._calls[call_id],
                    outcome=event.outcome,
                    result_json=event.result_json,
                    error=event.error,
                    source=_source(event),
                )
            case _:
                pass

    def _answer_of(self, event: _events.TurnCompleted) -> Answer:
        return Answer(
            text=event.text,
            outcome=event.outcome,
            report=event.report,
            tool_calls=tuple(self._calls.values()),
            reasoning="".join(self._reasoning),
            error=event.error,
            turn_id=self.turn_id,
        )


def _source(event: _events.ToolCallCompleted) -> _events.ResultSource | None:
    known = event.outcome is _events.ToolCallOutcome.RESULT
    return event.source if known else None
