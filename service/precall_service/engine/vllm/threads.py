"""Runs long blocking work in a thread that does not keep the process from exiting."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


async def in_daemon_thread(work: Callable[[], T], until: threading.Event | None = None) -> T:
    """Returns or raises what `work` returns or raises.

    `until`: the thread lives on after its work until this is set, for the processes that end with
    the thread that has started them.

    The process does not wait for this thread when it exits, as it would for one of the event
    loop's own pool; so Ctrl-C works while vLLM is imported.

    On cancel: the thread continues, and its result is dropped.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if future.cancelled():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # pyright: ignore[reportArgumentType]

    def run() -> None:
        result, error = None, None
        try:
            result = work()
        except BaseException as raised:  # noqa: BLE001  (it is raised again in the event loop)
            error = raised
        with contextlib.suppress(RuntimeError):  # the loop has been closed
            loop.call_soon_threadsafe(settle, result, error)
        if until is not None:
            until.wait()

    threading.Thread(target=run, name="precall-blocking", daemon=True).start()
    return await future
