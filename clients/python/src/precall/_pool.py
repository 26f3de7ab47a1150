"""Where the handlers of a client run: places per tool, and threads for synchronous functions.

Owns: the bound on runs of one tool, over all conversations of a client, and the threads.
Concurrency: used from one event loop; only the functions themselves run in the threads.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import weakref
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from precall._options import ClientOptions
from precall._tool import Tool


class HandlerPool:
    """Runs tools, no more of each at once than it allows."""

    def __init__(self, options: ClientOptions) -> None:
        self._default_places = options.tool_concurrency
        self._places: weakref.WeakKeyDictionary[Tool, asyncio.Semaphore]
        self._places = weakref.WeakKeyDictionary()
        # Not the event loop's own threads: functions that hang would take those from everyone.
        self._threads = ThreadPoolExecutor(options.threads_max, thread_name_prefix="precall-tool")

    async def run(self, tool: Tool, arguments: Mapping[str, object]) -> object:
        """Returns what a tool's function returns, once the tool has a free place.

        Raises:
            Exception: Whatever the function raises.

        On cancel: a coroutine is cancelled, and a function that still waits for a thread never
        runs. One that runs cannot be stopped: it keeps its place until it returns.
        """
        place = self._place(tool)
        call = functools.partial(_guarded, tool.function, arguments)
        if tool.is_async:
            async with place:
                return await _resolved(call())
        await place.acquire()
        run = self._threads.submit(contextvars.copy_context().run, call)
        thread = asyncio.wrap_future(run)
        thread.add_done_callback(lambda _: place.release())
        thread.add_done_callback(look_at)
        try:
            await asyncio.wait(
                {thread}
            )  # unlike awaiting the thread itself, it passes no cancel on
        except asyncio.CancelledError:
            run.cancel()  # which spares one that runs
            raise
        return await _resolved(thread.result())

    def close(self) -> None:
        """Starts nothing more. Threads that still run are left to end by themselves."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _place(self, tool: Tool) -> asyncio.Semaphore:
        found = self._places.get(tool)
        if found is None:
            found = asyncio.Semaphore(tool.options.get("max_concurrency") or self._default_places)
            self._places[tool] = found
        return found


def look_at(future: asyncio.Future[Any]) -> None:
    """Looks at a failure that nobody waits for any more, so that asyncio does not report it."""
    if not future.cancelled():
        future.exception()


def _guarded(function: Callable[..., object], arguments: Mapping[str, object]) -> object:
    """Calls a function; what asyncio would take for its own affair becomes an ordinary error."""
    try:
        return function(**arguments)
    except (StopIteration, SystemExit) as error:
        raise RuntimeError(f"the handler raised {error!r}") from error


async def _resolved(value: object) -> object:
    """Returns a value, or what it resolves to: a decorated function may return an awaitable."""
    if not inspect.isawaitable(value):
        return value
    try:
        return await value
    except SystemExit as error:
        raise RuntimeError(f"the handler raised {error!r}") from error
