"""Ends calls whose client holds the connection open and reads nothing.

A status waits behind the message before it, and that message waits until the client opens its
window. grpc.aio cannot cancel a call from the server's side: it keeps the call, and a task that
waits for its end, until the client reads, resets the stream or closes the connection. What does end
a call is that nothing refers to it any more. The only thing left that does, once the method has
ended, is that task of grpc.aio, so it is cancelled here. (The call that came last is also held by
what accepts the next one, and ends when that comes.) A test fails if another version of grpcio does
not work so.

Concurrency: one event loop. Calls that are abandoned at about the same time are ended by one search
for their tasks, since the search looks at all tasks.
"""

from __future__ import annotations

import asyncio
import gc
import logging
from typing import Any, Final

log = logging.getLogger(__name__)

_WATCHER: Final = "_schedule_rpc_coro"
"""The coroutine of grpc.aio that waits for the end of a call, and holds the task of its method."""
_SEARCH_DELAY_S: Final = 0.5
_TASKS_AT_ONCE: Final = 500
"""Tasks that are looked at before others may run."""


class AbandonedCalls:
    """The calls of one server that have to be ended. `ended` counts them."""

    def __init__(self) -> None:
        self.ended = 0
        self._methods: set[asyncio.Task[Any]] = set()
        self._search: asyncio.Task[None] | None = None

    def add(self, method: asyncio.Task[Any]) -> None:
        """Ends the call that this task serves, soon. The task must end by itself."""
        self._methods.add(method)
        if self._search is None:
            self._search = asyncio.create_task(self._end_all(), name="ends abandoned calls")

    async def close(self) -> None:
        """Stops looking for calls. Those that were added last may stay until the server stops."""
        if self._search is not None:
            self._search.cancel()
            await asyncio.wait([self._search])

    async def _end_all(self) -> None:
        while self._methods:
            await asyncio.sleep(_SEARCH_DELAY_S)
            methods, self._methods = self._methods, set()
            ended = await _end(methods)  # the clients of the others have left meanwhile
            self.ended += ended
            if ended:
                log.info("ended %d calls whose clients read nothing", ended)
        self._search = None


async def _end(methods: set[asyncio.Task[Any]]) -> int:
    """Cancels what waits for the end of the calls of these tasks; returns how many there were."""
    ended = 0
    for index, task in enumerate(asyncio.all_tasks()):
        if index % _TASKS_AT_ONCE == _TASKS_AT_ONCE - 1:
            await asyncio.sleep(0)
        coroutine = task.get_coro()
        if getattr(coroutine, "__name__", "") == _WATCHER and _holds_one_of(coroutine, methods):
            ended += task.cancel()
    return ended


def _holds_one_of(coroutine: object, methods: set[asyncio.Task[Any]]) -> bool:
    variables = gc.get_referents(coroutine)
    return any(
        isinstance(value, asyncio.Task) and value in methods
        for each in variables
        for value in gc.get_referents(each)
    )
