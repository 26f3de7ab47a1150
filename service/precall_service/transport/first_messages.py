"""Which calls may send their first message: a bounded number at once, fairly by tenant.

gRPC holds what has come of a message until the rest of it comes, and no one can see how much that
is. But it takes in only the start of a message that has not been asked for. So only calls that have
a slot here ask for their first message, and all others hold no more than that start.

Owns: the slots, and the calls that wait for one, in an order that is fair by tenant.
Concurrency: one event loop.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final, TypeVar

from precall_service.domain.clock import Clock, Timer
from precall_service.domain.errors import Reason, ServiceError
from precall_service.tools.timeout import within

T = TypeVar("T")

RETRY_AFTER_S: Final = 2.0
"""What a refused call is told to wait, give or take half of it: not all shall come back at once."""
_TICK_S: Final = 1e-6
"""A time that is as good as over: sums of times are not exact."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrivalLimits:
    """How first messages are read.

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
        self._granted = 0
        """Slots that were given to calls that have not taken them yet."""
        self._queues: dict[str, deque[asyncio.Future[None]]] = {}
        """Those that wait, by whose they are; the first queue is served next."""
        self._waiting = 0
        self._giving_way = 0
        """Those with a slot that are being ended, because others wait."""
        self._timer: Timer | None = None

    @property
    def reading(self) -> int:
        """How many calls have a slot."""
        return len(self._readings) + self._granted

    @property
    def waiting(self) -> int:
        """How many calls wait for one."""
        return self._waiting

    async def read(self, whose: str, receive: Callable[[], Awaitable[T]]) -> T:
        """Waits for a slot, and returns what `receive` returns within the slot's time.

        Raises:
            ServiceError: OVERLOADED if too many wait, none became free in time, or the message was
                slow while others waited.
            TimeoutError: the message did not come within `timeout_s`.
        On cancel: the slot is free again.
        """
        async with self.slot(whose):
            return await receive()

    @asynccontextmanager
    async def slot(self, whose: str) -> AsyncGenerator[None]:
        """Holds a slot for the block, which it ends after `timeout_s`. See `read`."""
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
            self._pass_on()

    async def _enter(self, whose: str) -> None:
        if self.reading < self.limits.reading_max and not self._waiting:
            return
        queue = self._queues.get(whose)
        of_one_max = max(1, self.limits.waiting_max // 2)
        if self._waiting >= self.limits.waiting_max or len(queue or ()) >= of_one_max:
            raise self._overloaded("too many wait already")
        if queue is None:
            queue = self._queues[whose] = deque()
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue.append(turn)
        self._waiting += 1
        self._watch_readings()
        given_up = True
        try:
            async with within(self._clock, self.limits.timeout_s):
                await turn
            given_up = False
        except TimeoutError:
            raise self._overloaded(f"this one waited {self.limits.timeout_s:g} s") from None
        finally:
            if turn.done() and not turn.cancelled():
                self._granted -= 1
            else:
                self._leave(whose, turn)
            if given_up:
                self._pass_on()  # it may have been given a slot at the same moment

    def _leave(self, whose: str, turn: asyncio.Future[None]) -> None:
        queue = self._queues.get(whose)
        if queue is None or turn not in queue:
            return  # its turn came when it was cancelled already
        queue.remove(turn)
        self._waiting -= 1
        if not queue:
            del self._queues[whose]

    def _pass_on(self) -> None:
        """Gives free slots to those that wait, one of each tenant in turn."""
        while self._waiting and self.reading < self.limits.reading_max:
            whose, queue = next(iter(self._queues.items()))
            turn = queue.popleft()
            self._waiting -= 1
            del self._queues[whose]
            if queue:
                self._queues[whose] = queue  # at the end: the others come first
            if not turn.cancelled():
                turn.set_result(None)
                self._granted += 1
        self._watch_readings()

    def _watch_readings(self) -> None:
        """Looks at the oldest reading when its patience ends, if more wait than give way."""
        if self._timer is not None or self._waiting <= self._giving_way:
            return
        oldest = next((each for each in self._readings if not each.gave_way), None)
        if oldest is not None:
            self._timer = self._clock.call_later(max(0.0, self._left_s(oldest)), self._displace)

    def _displace(self) -> None:
        """Ends the oldest readings that have lost the others' patience, one for each that waits."""
        self._timer = None
        now = asyncio.get_running_loop().time()
        for reading in self._readings:
            if self._waiting <= self._giving_way or self._left_s(reading) > _TICK_S:
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
