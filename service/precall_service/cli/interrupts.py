"""Ctrl-C and SIGTERM: the first asks a service to end in order, a second Ctrl-C ends it at once.

Concurrency: one event loop, in the main thread, and while a service runs one thread that waits for
Ctrl-C on its behalf.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from contextlib import asynccontextmanager, contextmanager
from multiprocessing import resource_tracker


class Interrupts:
    """What signals have asked for so far."""

    def __init__(self) -> None:
        self._asked: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._orderly = False
        self._main = asyncio.current_task()
        self.insisted = False
        """Whether everything has to end at once."""

    def end_in_order(self) -> asyncio.Future[None]:
        """Done when a signal asks for the end. Before this is called, one ends all at once."""
        self._orderly = True
        return self._asked

    @contextmanager
    def handled(self) -> Generator[None]:
        """Signals come here for as long as the block runs; Ctrl-C comes here alone.

        A terminal sends it to the engine's processes too, and the engine would be gone before the
        turns that it is to finish. So it is blocked, which everything that is started in the block
        inherits, and waited for by a thread. Threads that were there before may get it still.
        """
        loop = asyncio.get_running_loop()
        ctrl_c_before = signal.getsignal(signal.SIGINT)
        loop.add_signal_handler(signal.SIGINT, self._on_signal, True)
        loop.add_signal_handler(signal.SIGTERM, self._on_signal, False)
        # Where it does not run yet, the first process to be started starts it, and that unblocks.
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
            with contextlib.suppress(RuntimeError):  # the loop is closed: nothing is left to end
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
    """The first Ctrl-C in the block runs `act`, the second one cancels the block."""
    main = asyncio.current_task()
    assert main is not None
    pressed = asyncio.Event()

    async def act_when_pressed() -> None:
        await pressed.wait()
        await act()

    def on_signal() -> None:
        if pressed.is_set():
            main.cancel()
        pressed.set()

    acting = asyncio.create_task(act_when_pressed())
    before = signal.getsignal(signal.SIGINT)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, on_signal)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGINT)
        signal.signal(signal.SIGINT, before)
        acting.cancel()
        await asyncio.wait([acting])
