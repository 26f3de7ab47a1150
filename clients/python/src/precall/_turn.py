"""A turn as the caller sees it: an async iterator of events, then an answer."""

from __future__ import annotations

import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator
from typing import Any

from precall._errors import ConversationClosedError, PrecallError
from precall._events import Event
from precall._feed import TurnFeed
from precall._messages import Answer


class Turn:
    """The answering of one user message. Made by `Conversation.send`.

    Iterate over it for its events, or await it for its answer; the first of these starts it. The
    iteration ends with TurnCompleted, or raises the typed error of a turn that failed. Leaving it
    early (`break`, an exception, a cancelled task, Ctrl-C) cancels the turn on the server.

    A slow reader gets longer pieces of text, of reasoning and of arguments, only the latest
    progress of a call, and not every prediction; see `ClientOptions.waiting_events_max`.
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
        """The id of the turn in its conversation."""
        return self._feed.turn_id

    def __aiter__(self) -> AsyncIterator[Event]:
        if self._iterated:
            raise RuntimeError("the events of a turn come once; await its answer() instead")
        self._iterated = True
        events = self._iterate()
        # A loop that is left drops its iterator at once, and asyncio closes it a moment later. A
        # turn that is started in between must wait for the cancellation instead of being refused.
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
        await feed.answer()  # raises if the turn failed

    def __await__(self) -> Generator[Any, None, Answer]:
        """Same as `answer`."""
        return self.answer().__await__()

    async def answer(self) -> Answer:
        """Waits for the end of the turn and returns its answer; starts the turn if it has not been.

        A turn that was cut by a limit or cancelled has an answer too: see `Answer.outcome`.

        Raises:
            NoCallError: The model did not make a call that it meant or had to make.
            PrecallError: The turn was refused or failed, or the conversation has ended.

        On cancel: if this call started the turn, the turn is cancelled on the server.
        """
        if not self._iterated:
            async for _ in self:
                pass
        return await self._feed.answer()

    async def cancel(self) -> None:
        """Cancels the turn on the server. Its TurnCompleted still comes, with the text so far.

        A turn that has ended, or has not started, stays as it is.
        """
        await self._cancel(self._feed)
