"""A turn as its reader sees it: an async iterator of events, then an answer.

Owns: the events that wait for the reader, and what is remembered of them for the answer.
Concurrency: the stream's reader puts, one reader of the turn takes; both on one event loop.
"""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator
from typing import Any

from precall import _events
from precall._errors import ConversationClosedError, PrecallError, ServerError
from precall._events import Event
from precall._messages import Answer, ToolCall


class TurnFeed:
    """Carries the events of one turn from the stream to whoever iterates."""

    def __init__(self, turn_id: str, waiting_events_max: int) -> None:
        self.turn_id = turn_id
        self.frame_sequence = 0
        """Number of the StartTurn frame; 0 before it is sent."""
        self.cancel_sent = False
        """Whether the server has been told to end the turn."""
        self._waiting_events_max = waiting_events_max
        self._events: collections.deque[Event] = collections.deque()
        self._readable = asyncio.Event()
        self._room = asyncio.Event()
        self._ended = asyncio.Event()
        self._abandoned = False
        self._lossy = False
        self._answer: Answer | None = None
        self._error: PrecallError | None = None
        self._calls: dict[str, ToolCall] = {}
        self._reasoning: list[str] = []

    @property
    def ended(self) -> bool:
        """Whether nothing more will come."""
        return self._ended.is_set()

    @property
    def abandoned(self) -> bool:
        """Whether the loop over the events was left before their end."""
        return self._abandoned

    async def put(self, event: Event) -> None:
        """Takes the next event. Waits while too many wait for a reader, which slows the server.

        Once the reader has been let go, the oldest make room instead.
        """
        self._remember(event)
        if isinstance(event, _events.TurnCompleted):
            if event.outcome is _events.TurnOutcome.FAILED:
                self.end(event.error or ServerError("the turn failed and nobody said why"))
                return
            self._answer = self._answer_of(event)
        while self._is_full() and not (self._lossy or self._abandoned):
            self._room.clear()
            await self._room.wait()
        if not self._abandoned:
            if self._is_full():
                self._events.popleft()
            self._events.append(event)
            self._readable.set()
        if self._answer is not None:
            self._end()

    def end(self, error: PrecallError) -> None:
        """Says that nothing more will come, and why. The first ending counts."""
        if not self.ended:
            self._error = error
            self._end()

    def abandon(self) -> None:
        """Notes that nobody reads any more. Callable from a finaliser, so it wakes nobody."""
        self._abandoned = True

    def let_go(self) -> None:
        """Waits for the reader of the events no more, as they may have stopped reading."""
        self._lossy = True
        self._room.set()

    def discard(self) -> None:
        """Drops what waits, and lets the stream's reader go on."""
        self._abandoned = True
        self._events.clear()
        self._room.set()

    async def next(self) -> Event | None:
        """Returns the next event; None when the turn has ended and everything was read."""
        while not self._events:
            if self.ended:
                return None
            self._readable.clear()
            await self._readable.wait()
        event = self._events.popleft()
        self._room.set()
        return event

    async def answer(self) -> Answer:
        """Returns how the turn ended, when it has.

        Raises:
            PrecallError: The turn failed.
        """
        await self._ended.wait()
        if self._answer is None:
            raise self._error or ServerError("the turn ended without an answer")
        return self._answer

    async def wait_ended(self) -> None:
        """Returns when the turn has ended, however it did."""
        await self._ended.wait()

    def _is_full(self) -> bool:
        return len(self._events) >= self._waiting_events_max

    def _end(self) -> None:
        self._ended.set()
        self._readable.set()
        self._room.set()

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


class Turn:
    """One user message on its way to an answer. Made by `Conversation.send`.

    Iterate over it for its events, or await it for its answer. It starts with the first of either.
    The iteration ends with TurnCompleted, or raises the typed error of a turn that failed. Leaving
    it early (`break`, an exception, a cancelled task, Ctrl-C) cancels the turn on the server.
    """

    def __init__(
        self,
        feed: TurnFeed,
        *,
        begin: Callable[[TurnFeed], Awaitable[None]],
        cancel: Callable[[TurnFeed], Awaitable[None]],
    ) -> None:
        self._feed = feed
        self._begin = begin
        self._cancel = cancel
        self._iterated = False

    @property
    def turn_id(self) -> str:
        """Names the turn in its conversation."""
        return self._feed.turn_id

    def __aiter__(self) -> AsyncIterator[Event]:
        if self._iterated:
            raise RuntimeError("the events of a turn come once; await its answer() instead")
        self._iterated = True
        events = self._iterate()
        # A loop that is left drops its iterator at once, but asyncio closes it a moment later. The
        # note is made now, so that a turn that is started in between waits and is not refused.
        weakref.finalize(events, self._feed.abandon).atexit = False
        return events

    async def _iterate(self) -> AsyncGenerator[Event, None]:
        feed = self._feed
        try:
            await self._begin(feed)
        except PrecallError as error:
            feed.end(error)
            raise
        except BaseException:
            feed.end(ConversationClosedError("the turn did not start"))
            raise
        try:
            while (event := await feed.next()) is not None:
                yield event
        finally:
            feed.discard()
            await self._cancel(feed)
        await feed.answer()  # raises where the turn failed

    def __await__(self) -> Generator[Any, None, Answer]:
        """Does what `answer` does."""
        return self.answer().__await__()

    async def answer(self) -> Answer:
        """Returns how the turn ended, starting it where nobody has iterated over it.

        A turn that a limit cut or that was cancelled has an answer too: see `Answer.outcome`.
        In the middle of an iteration, the events that find no room any more drop the oldest.

        Raises:
            PrecallError: The turn was refused or failed, or the conversation has ended.

        On cancel: the turn is cancelled on the server, if it was this call that started it.
        """
        if self._iterated:
            self._feed.let_go()
        else:
            async for _ in self:
                pass
        return await self._feed.answer()

    async def cancel(self) -> None:
        """Ends the turn on the server; its TurnCompleted, with what there is, still comes.

        Events that wait unread hold it up no longer: those that find no room drop the oldest. A
        turn that has ended, or has not started, is left as it is.
        """
        if self._feed.frame_sequence:
            self._feed.let_go()
        await self._cancel(self._feed)
