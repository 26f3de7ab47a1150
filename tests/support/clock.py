"""Time that moves only when a test moves it."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(order=True)
class ManualTimer:
    """A callback of a ManualClock. Timers are ordered by time, then by their order of creation."""

    at: float
    number: int
    callback: Callable[[], None] = field(compare=False)
    cancelled: bool = field(default=False, compare=False)

    def cancel(self) -> None:
        self.cancelled = True
        self.callback = _nothing  # a timer of the loop lets go of it, too


def _nothing() -> None:
    pass


class ManualClock:
    """A `Clock` that stands still between calls of `advance`."""

    def __init__(self, now: float = 1000.0) -> None:
        self._now = now
        self._timers: list[ManualTimer] = []
        self._numbers = itertools.count()

    def now(self) -> float:
        return self._now

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> ManualTimer:
        timer = ManualTimer(self._now + max(delay_s, 0.0), next(self._numbers), callback)
        heapq.heappush(self._timers, timer)
        return timer

    @property
    def pending(self) -> int:
        """The number of timers that would still fire."""
        return sum(not timer.cancelled for timer in self._timers)

    def advance(self, seconds: float) -> None:
        """Advances time. Due callbacks are called in order; each sees its own time as `now`."""
        until = self._now + seconds
        while self._timers and self._timers[0].at <= until:
            timer = heapq.heappop(self._timers)
            if not timer.cancelled:
                self._now = timer.at
                timer.callback()
        self._now = until


async def settle() -> None:
    """Lets the event loop run until every task waits for time or for the test."""
    for _ in range(50):
        await asyncio.sleep(0)
