"""Which calls may send their first message: a bounded number at once, fairly by tenant.

gRPC holds what has come of a message until the rest of it comes, and no one can see how much that
is. But it takes in only the start of a message that has not been asked for. So only calls that have
a slot here ask for their first message, and all others hold no more than that start.

Owns: the slots, and when a call must give its own up to those that wait.
Concurrency: one event loop.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

from precall_service.domain.clock import Clock, Timer
from precall_service.domain.errors import Reason, ServiceError
from precall_service.fair_turns import FairTurns
from precall_service.tools.timeout import within

RETRY_AFTER_S: Final = 2.0
"""What a refused call is told to wait, give or take half of it: not all shall come back at once."""
_TICK_S: Final = 1e-6
"""A time that is as good as over: sums of times are not exact."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrivalLimits:
    """How first messages are read and decoded.

    `reading_max` of them are read at once. `waiting_max` calls may wait for that, of one tenant
    half as many. Each may wait and then read for `timeout_s`. While others wait, a message that
    has not come whole within `patience_s` gives way to them.
    """

    reading_max: int
    waiting_max: int
    timeout_s: float
    patience_s: float = 1.0


@dataclass(eq=False, slots=True)
class _Reading:
    """A call that has a slot."""

    since: float
    scope: asyncio.Timeout = field(default_factory=lambda: asyncio.timeout(None))
    gave_way: bool = False


class FirstMessages:
    """The slots for first messages. `whose` is what is treated fairly, such as the tenant."""

    def __init__(self, clock: Clock, limits: ArrivalLimits) -> None:
        self.limits = limits
        self._clock = clock
        self._readings: dict[_Reading, None] = {}
        """Those that have a slot, the oldest first."""
        self._turns = FairTurns(limits.reading_max)
        self._giving_way = 0
        """Those with a slot that are being ended, because others wait."""
        self._timer: Timer | None = None

    @property
    def reading(self) -> int:
        """How many calls have a slot."""
        return self._turns.taken

    @property
    def waiting(self) -> int:
        """How many calls wait for one."""
        return self._turns.waiting

    @asynccontextmanager
    async def slot(self, whose: str) -> AsyncGenerator[None]:
        """Waits for a slot, and holds it for the block, which it ends after `timeout_s`.

        Raises:
            ServiceError: OVERLOADED if too many wait, none became free in time, or the block was
                slow while others waited.
            TimeoutError: the block took longer than `timeout_s`.
        On cancel: the slot is free again.
        """
        await self._enter(whose)
        reading = _Reading(self._clock.now())
        self._readings[reading] = None
        self._watch_readings()
        try:
            async with within(self._clock, self.limits.timeout_s), reading.scope:
                yield
        except TimeoutError:
            if reading.gave_way:
                raise self._overloaded("the first message came too slowly for that") from None
            raise
        finally:
            del self._readings[reading]
            self._giving_way -= reading.gave_way
            self._turns.end()
            self._watch_readings()

    async def _enter(self, whose: str) -> None:
        if self.reading < self.limits.reading_max:
            await self._turns.begin(whose)
            return
        of_one_max = max(1, self.limits.waiting_max // 2)
        if self.waiting >= self.limits.waiting_max or self._turns.waiting_of(whose) >= of_one_max:
            raise self._overloaded("too many wait already")
        self._watch_readings(coming=1)
        try:
            async with within(self._clock, self.limits.timeout_s):
                await self._turns.begin(whose)
        except TimeoutError:
            raise self._overloaded(f"this one waited {self.limits.timeout_s:g} s") from None

    def _watch_readings(self, *, coming: int = 0) -> None:
        """Looks at the oldest reading when its patience ends, if more wait than give way."""
        if self._timer is not None or self.waiting + coming <= self._giving_way:
            return
        oldest = next((each for each in self._readings if not each.gave_way), None)
        if oldest is not None:
            self._timer = self._clock.call_later(max(0.0, self._left_s(oldest)), self._displace)

    def _displace(self) -> None:
        """Ends the oldest readings that have lost the others' patience, one for each that waits."""
        self._timer = None
        now = asyncio.get_running_loop().time()
        for reading in self._readings:
            if self.waiting <= self._giving_way or self._left_s(reading) > _TICK_S:
                break
            if not reading.gave_way:
                reading.gave_way = True
                self._giving_way += 1
                reading.scope.reschedule(now)
        self._watch_readings()

    def _left_s(self, reading: _Reading) -> float:
        return reading.since + self.limits.patience_s - self._clock.now()

    def _overloaded(self, why: str) -> ServiceError:
        retry_after_s = round(RETRY_AFTER_S * random.uniform(0.5, 1.5), 3)  # noqa: S311
        limit = self.limits.reading_max
        return ServiceError(
            Reason.OVERLOADED,
            f"more calls begin than the server reads at once ({limit}), and {why}: try again in "
            f"{retry_after_s:g} s, or on another replica",
            retry_after_s=retry_after_s,
            metadata={"limit": str(limit)},
        )
