"""Watches the running event loop: how long it was kept from its next task, at worst.

A test lets a hostile client do its worst inside of `watched_loop`, and asserts that the loop stayed
free. Wall-clock time would fail on a busy machine, so pauses are measured in processor time: of
the loop's own thread, and of the whole process, which also shows a thread that holds Python's lock.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

PAUSE_MAX_S: Final = 0.05
"""The longest pause that invariant 11 allows."""
CI_FACTOR: Final = 3.0
"""How much slower than ours a machine may be, which shares its cores and caches with others."""
_PERIOD_S: Final = 0.001


@dataclass(slots=True)
class LoopWatch:
    """The longest pauses so far, in seconds.

    Attributes:
        wall_s: By the clock. For reports: it includes the time that the machine gave to others.
        loop_cpu_s: Processor time of the loop's thread: callbacks that ran too long.
        process_cpu_s: Processor time of all threads of this process. If another thread holds
            Python's lock, the loop does nothing in that time. A thread that works without the lock
            counts only while the loop is late for another reason.
    """

    wall_s: float = 0.0
    loop_cpu_s: float = 0.0
    process_cpu_s: float = 0.0
    _last: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def begin(self) -> None:
        """Starts a pause."""
        self._last = _now()

    def note(self) -> None:
        """Ends a pause, and starts the next one."""
        now = _now()
        wall_s, loop_cpu_s, process_cpu_s = (
            after - before for after, before in zip(now, self._last, strict=True)
        )
        self.wall_s = max(self.wall_s, wall_s)
        self.loop_cpu_s = max(self.loop_cpu_s, loop_cpu_s)
        self.process_cpu_s = max(self.process_cpu_s, process_cpu_s)
        self._last = now

    def assert_free(self, *, pause_max_s: float = PAUSE_MAX_S, factor: float = CI_FACTOR) -> None:
        """Fails if the loop's thread, or any thread with Python's lock, made a long pause."""
        limit_s = pause_max_s * factor
        assert self.loop_cpu_s <= limit_s, f"a callback ran too long: {self}"
        assert self.process_cpu_s <= limit_s, f"a thread kept the loop from running: {self}"


@asynccontextmanager
async def watched_loop() -> AsyncGenerator[LoopWatch]:
    """Watches the running loop for the length of the block.

    Objects that exist before are hidden from the garbage collector, as a server does after its
    start: a test process has imported far more than it.
    """
    watch = LoopWatch()
    gc.collect()
    gc.freeze()
    watch.begin()
    watcher = asyncio.create_task(_watch(watch))
    try:
        yield watch
        watch.note()
        await asyncio.sleep(_PERIOD_S)  # what the block has left to run counts as well
    finally:
        watcher.cancel()
        await asyncio.gather(watcher, return_exceptions=True)
        gc.unfreeze()


async def _watch(watch: LoopWatch) -> None:
    while True:
        await asyncio.sleep(_PERIOD_S)
        watch.note()


def _now() -> tuple[float, float, float]:
    return time.perf_counter(), time.thread_time(), time.process_time()
