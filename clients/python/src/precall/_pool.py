"""Runs the handlers of a client: slots per tool, and threads for synchronous functions.

Owns: the limit on runs of one tool, over all conversations of a client, and the threads.
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
    """Runs tools, each at most as often at once as it allows."""

    def __init__(self, options: ClientOptions) -> None:
        self._default_concurrency = options.tool_concurrency
        self._slots: weakref.WeakKeyDictionary[Tool, asyncio.Semaphore]
        self._slots = weakref.WeakKeyDictionary()
        # Not the event loop's own threads: functions that hang would use those up for all others.
        self._threads = ThreadPoolExecutor(options.threads_max, thread_name_prefix="precall-tool")

    async def run(self, tool: Tool, arguments: Mapping[str, object]) -> object:
        """Waits for a free slot of the tool, runs its function and returns the result.

        Raises:
            Exception: The function raised it.

        On cancel: a coroutine is cancelled, and a synchronous function that has no thread yet never
        runs. One that runs cannot be stopped: it keeps its slot until it returns.
        """
        slots = self._slots_of(tool)
        call = functools.partial(_guarded, tool.function, arguments)
        if tool.is_async:
            async with slots:
                return await _resolved(call())
        await slots.acquire()
        run = self._threads.submit(contextvars.copy_context().run, call)
        thread = asyncio.wrap_future(run)
        thread.add_done_callback(lambda _: slots.release())
        thread.add_done_callback(look_at)
        try:
            await asyncio.wait({thread})  # unlike `await thread`, it passes no cancellation on
        except asyncio.CancelledError:
            run.cancel()  # no effect if it runs already
            raise
        return await _resolved(thread.result())

    def close(self) -> None:
        """Starts no more functions. Threads that still run end by themselves."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _slots_of(self, tool: Tool) -> asyncio.Semaphore:
        found = self._slots.get(tool)
        if found is None:
            count = tool.options.get("max_concurrency") or self._default_concurrency
            found = self._slots[tool] = asyncio.Semaphore(count)
        return found


def look_at(future: asyncio.Future[Any]) -> None:
    """Retrieves a failure that is not awaited any more, so that asyncio does not report it."""
    if not future.cancelled():
        future.exception()


def _guarded(function: Callable[..., object], arguments: Mapping[str, object]) -> object:
    """Calls a function; exceptions that have a meaning in asyncio become ordinary errors."""
    try:
        return function(**arguments)
    except (StopIteration, SystemExit) as error:
        raise RuntimeError(f"the handler raised {error!r}") from error


async def _resolved(value: object) -> object:
    """Returns a value, or awaits it: a decorated function may return an awaitable."""
    if not inspect.isawaitable(value):
        return value
    try:
        return await value
    except SystemExit as error:
        raise RuntimeError(f"the handler raised {error!r}") from error
