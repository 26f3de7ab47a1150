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
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from precall._options import ClientOptions
from precall._results import LazyResultError, ResultWriter
from precall._tool import Tool

T = TypeVar("T")


class HandlerPool:
    """Runs tools, each at most as often at once as it allows."""

    def __init__(self, options: ClientOptions) -> None:
        self._default_concurrency = options.tool_concurrency
        self._slots: weakref.WeakKeyDictionary[Tool, asyncio.Semaphore]
        self._slots = weakref.WeakKeyDictionary()
        # Not the event loop's own threads: functions that hang would use those up for all others.
        self._threads = ThreadPoolExecutor(options.threads_max, thread_name_prefix="precall-tool")

    async def run(
        self,
        tool: Tool,
        arguments: Mapping[str, object],
        writer: ResultWriter,
        *,
        on_begin: Callable[[], None] = lambda: None,
    ) -> str:
        """Waits for a free slot of the tool, runs its function and returns its result as JSON text.

        `on_begin` is called when it has the slot. The iterators in a result are drawn in a thread:
        that of the function, if it has one.

        Raises:
            ResultError: The result does not become JSON, or is too long.
            Exception: The function raised it.

        On cancel: a coroutine is cancelled, and a synchronous function that has no thread yet never
        runs. One that runs cannot be stopped: it keeps its slot until it returns.
        """
        slots = self._slots_of(tool)
        call = functools.partial(_guarded, tool.function, arguments)
        if tool.is_async:
            async with slots:
                on_begin()
                return await self._written(call(), writer)
        await slots.acquire()
        on_begin()
        write = functools.partial(_written_in_thread, call, writer)
        result = await self._in_thread(write, on_end=slots.release)
        return result if isinstance(result, str) else await self._written(result.value, writer)

    async def _written(self, value: object, writer: ResultWriter) -> str:
        """Returns a value as JSON text, or what it gives when it is awaited or iterated over."""
        try:
            if inspect.isawaitable(value):  # a decorated function may return one
                value = await value
            if isinstance(value, AsyncIterator):
                return await writer.write_drawn(cast("AsyncIterator[object]", value))
        except SystemExit as error:
            raise RuntimeError(f"the handler raised {error!r}") from error
        try:
            return writer.write_ready(value)
        except LazyResultError:
            return await self._in_thread(
                functools.partial(_guarded, writer.write, {"value": value})
            )

    async def _in_thread(
        self, call: Callable[[], T], *, on_end: Callable[[], None] | None = None
    ) -> T:
        """Runs a call in a thread. `on_end` is called when it has ended, cancelled or not."""
        run = self._threads.submit(contextvars.copy_context().run, call)
        thread = asyncio.wrap_future(run)
        if on_end is not None:
            thread.add_done_callback(lambda _: on_end())
        thread.add_done_callback(look_at)
        try:
            await asyncio.wait({thread})  # unlike `await thread`, it passes no cancellation on
        except asyncio.CancelledError:
            run.cancel()  # no effect if it runs already
            raise
        return thread.result()

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


@dataclass(frozen=True, slots=True)
class _Pending:
    """What a synchronous function returned, if it has to be awaited."""

    value: object


def _written_in_thread(call: Callable[[], object], writer: ResultWriter) -> str | _Pending:
    value = call()
    if inspect.isawaitable(value) or isinstance(value, AsyncIterator):
        return _Pending(cast(object, value))
    return _guarded(writer.write, {"value": value})


def _guarded(function: Callable[..., T], arguments: Mapping[str, object]) -> T:
    """Calls a function; exceptions that have a meaning in asyncio become ordinary errors."""
    try:
        return function(**arguments)
    except (StopIteration, SystemExit) as error:
        raise RuntimeError(f"the handler raised {error!r}") from error
