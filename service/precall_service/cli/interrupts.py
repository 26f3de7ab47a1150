"""Ctrl-C and SIGTERM: the first one stops a service in order, a second Ctrl-C ends it at once.

Concurrency: one event loop, in the main thread, and one thread that waits for Ctrl-C while a
service runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from contextlib import asynccontextmanager, contextmanager
from multiprocessing import resource_tracker
from typing import Any, TypeVar

T = TypeVar("T")


def run(main: Coroutine[Any, Any, T]) -> T:
    """As `asyncio.run`, but in the main thread no Ctrl-C is missed. It cancels `main`.

    The handler of asyncio.run is one of Python's, which runs when the loop does something next. If
    the signal comes in the moment in which the loop begins to wait, that is the next event, which
    may never come. A handler of the loop's own wakes the loop.
    """
    if threading.current_thread() is not threading.main_thread():
        return asyncio.run(main)  # no other thread can receive signals

    async def cancellable() -> T:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        loop.add_signal_handler(signal.SIGINT, task.cancel)
        try:
            return await main
        finally:
            loop.remove_signal_handler(signal.SIGINT)

    return asyncio.run(cancellable())


class Interrupts:
    """Receives signals, and keeps what they have asked for."""

    def __init__(self) -> None:
        self._asked: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._orderly = False
        self._main = asyncio.current_task()
        self.insisted = False
        """Whether a signal has asked for everything to end at once."""

    def end_in_order(self) -> asyncio.Future[None]:
        """Returns a future that the next signal completes. Before that, signals end all at once."""
        self._orderly = True
        return self._asked

    @contextmanager
    def handled(self) -> Generator[None]:
        """Receives signals while the block runs, and keeps Ctrl-C from the engine's processes.

        A terminal sends Ctrl-C to every process of the group, so the engine would end before the
        turns that it has to finish. It is therefore blocked, which processes and threads started
        in the block inherit, and a thread waits for it. Earlier threads may still receive it.
        """
        loop = asyncio.get_running_loop()
        ctrl_c_before = signal.getsignal(signal.SIGINT)
        loop.add_signal_handler(signal.SIGINT, self._on_signal, True)
        loop.add_signal_handler(signal.SIGTERM, self._on_signal, False)
        # Otherwise the first process that is started starts the tracker, and that unblocks SIGINT.
        resource_tracker.ensure_running()
        mask_before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        closed = threading.Event()
        waiting = threading.Thread(target=self._wait, args=(loop, closed), daemon=True)
        waiting.start()
        try:
            yield
        finally:
            closed.set()
            assert waiting.ident is not None
            signal.pthread_kill(waiting.ident, signal.SIGINT)
            waiting.join()
            signal.pthread_sigmask(signal.SIG_SETMASK, mask_before)
            loop.remove_signal_handler(signal.SIGTERM)
            loop.remove_signal_handler(signal.SIGINT)
            signal.signal(signal.SIGINT, ctrl_c_before)

    def _wait(self, loop: asyncio.AbstractEventLoop, closed: threading.Event) -> None:
        while True:
            signal.sigwait({signal.SIGINT})
            if closed.is_set():
                return
            with contextlib.suppress(RuntimeError):  # the loop is closed, so nothing is left to end
                loop.call_soon_threadsafe(self._on_signal, True)

    def _on_signal(self, insistent: bool) -> None:
        if self._orderly and not self._asked.done():
            self._asked.set_result(None)
        elif (insistent or not self._orderly) and not self.insisted:
            self.insisted = True
            assert self._main is not None
            self._main.cancel()


@asynccontextmanager
async def on_interrupt(act: Callable[[], Coroutine[None, None, None]]) -> AsyncGenerator[None]:
    """Runs `act` on the first Ctrl-C in the block, and cancels the block on the second."""
    main = asyncio.current_task()
    assert main is not None
    acting: list[asyncio.Task[None]] = []

    def on_signal() -> None:
        if acting:
            main.cancel()
        else:
            acting.append(asyncio.create_task(act()))

    before = signal.getsignal(signal.SIGINT)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, on_signal)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGINT)
        signal.signal(signal.SIGINT, before)
        for task in acting:
            task.cancel()
            await asyncio.wait([task])
