"""A remote store that answers, hangs or fails as a test says, and a clock that may be late."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence

from precall_service.cache.base import (
    CacheKey,
    Change,
    LoggedChange,
    Lookup,
    StoreUnavailableError,
)
from precall_service.cache.memory import MemoryStore
from precall_service.cache.remote import StoreLostError
from tests.support.clock import ManualClock


class BusyClock(ManualClock):
    def be_busy(self, seconds: float) -> None:
        """Calls what is due, but only after so long, as an event loop does that is held up."""
        self._now += seconds
        due = [timer for timer in self._timers if timer.at <= self._now and not timer.cancelled]
        for timer in due:
            timer.cancel()
            timer.callback()


class ShakyStore(MemoryStore):
    """A remote store that answers, hangs, or fails, as the test says.

    Attributes:
        fails: Raised by every operation and every attempt to connect; None: they succeed.
        hangs: Operations wait until the connection is given up.
        held: If there is one, operations wait for it.
        calls: What was carried out, in order. An operation that hangs is not.
        attempts: The times at which it was tried to connect.
    """

    name = "redis://somewhere:6379/0"

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(clock, bytes_max=1 << 20, nodes_max=100, changes_max=100)
        self.clock = clock
        self.fails: StoreUnavailableError | None = None
        self.fails_after: dict[str, int] = {}
        self.hangs = False
        self.held: asyncio.Future[None] | None = None
        self.calls: list[str] = []
        self.attempts: list[float] = []
        self.closed = 0
        self._connection: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def look_up(self, key: CacheKey, nodes: Sequence[str]) -> Lookup:
        await self._gate("look_up")
        return await super().look_up(key, nodes)

    async def advance(
        self, tenant: str, nodes: Sequence[str], change: Change | None, *, settles: str = ""
    ) -> int:
        await self._gate(f"advance {nodes[0]}")
        return await super().advance(tenant, nodes, change, settles=settles)

    async def announce(
        self, tenant: str, write_id: str, nodes: Sequence[str], change: Change, within_s: float
    ) -> None:
        await self._gate(f"announce {nodes[0]}")
        await super().announce(tenant, write_id, nodes, change, within_s)

    async def drop(self, key: CacheKey, nodes: Sequence[str] = ()) -> int:
        await self._gate("drop")
        return await super().drop(key, nodes)

    async def watch(self, tenant: str, after: int | None) -> AsyncGenerator[LoggedChange]:
        await self._gate("watch")
        async for change in super().watch(tenant, after):
            yield change

    async def connect(self) -> None:
        self.attempts.append(self.clock.now())
        if self.fails is not None:
            raise self.fails
        if self.hangs:
            raise StoreUnavailableError("no answer")

    async def disconnect(self) -> None:
        if not self._connection.done():
            self._connection.set_exception(StoreLostError("the connection was closed"))
            self._connection.exception()
        self._connection = asyncio.get_running_loop().create_future()

    async def advance_epoch(self) -> None:
        await self._gate("epoch")

    async def close(self) -> None:
        self.closed += 1
        if self.hangs:
            await asyncio.shield(self._connection)

    async def _gate(self, call: str) -> None:
        if self.hangs:
            await asyncio.shield(self._connection)
        if self.held is not None:
            await self.held
        if self.fails is not None:
            raise self.fails
        if self.fails_after.get(call) == 0:
            raise StoreUnavailableError(f"{call} fails")
        if call in self.fails_after:
            self.fails_after[call] -= 1
        self.calls.append(call)
