"""Lets tenants take turns: each is served once before any is served again, however much waits.

Within a tenant, what came first goes first. What waits is bounded by those who have it wait.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Generic, TypeVar

T = TypeVar("T")


class FairLine(Generic[T]):
    """What waits to be served, by tenant. All operations take constant time."""

    def __init__(self) -> None:
        self._tenants: OrderedDict[str, OrderedDict[T, None]] = OrderedDict()
        """The tenant whose turn is next comes first."""
        self._waiting = 0
        self._last = ""
        """The tenant that was served last."""

    def __len__(self) -> int:
        return self._waiting

    def waiting_of(self, tenant: str) -> int:
        """How much of a tenant waits."""
        return len(self._tenants.get(tenant, ()))

    def add(self, tenant: str, item: T) -> None:
        """Has an item wait, behind all others of its tenant."""
        self._tenants.setdefault(tenant, OrderedDict())[item] = None
        self._waiting += 1

    def next(self) -> tuple[str, T]:
        """Removes the item that is served next, and returns it and its tenant.

        Raises:
            LookupError: nothing waits.
        """
        if not self._waiting:
            raise LookupError("nothing waits")
        if self._last in self._tenants:
            self._tenants.move_to_end(self._last)
        tenant, items = next(iter(self._tenants.items()))
        item, _ = items.popitem(last=False)
        self._removed(tenant)
        self._last = tenant
        return tenant, item

    def served(self, tenant: str) -> None:
        """Notes that a tenant was served without having to wait, so that others are next."""
        self._last = tenant

    def discard(self, tenant: str, item: T) -> None:
        """Removes an item that waits no more; does nothing if it is not here."""
        items = self._tenants.get(tenant)
        if items is not None and item in items:
            del items[item]
            self._removed(tenant)

    def _removed(self, tenant: str) -> None:
        self._waiting -= 1
        if not self._tenants[tenant]:
            del self._tenants[tenant]


class FairTurns:
    """Turns at something, `at_once` of them at a time. Concurrency: one event loop."""

    def __init__(self, at_once: int = 1) -> None:
        self._free = self._at_once = at_once
        self._line = FairLine[asyncio.Future[None]]()

    @property
    def taken(self) -> int:
        """How many have begun and not ended."""
        return self._at_once - self._free

    @property
    def waiting(self) -> int:
        """How many wait for theirs."""
        return len(self._line)

    def waiting_of(self, tenant: str) -> int:
        """How many of a tenant wait for theirs."""
        return self._line.waiting_of(tenant)

    async def begin(self, tenant: str) -> None:
        """Returns once the tenant has a turn; `end` must follow. On cancel: it has none."""
        if self._free:
            self._free -= 1
            self._line.served(tenant)
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._line.add(tenant, turn)
        try:
            await turn
        except asyncio.CancelledError:
            self._line.discard(tenant, turn)
            if not turn.cancelled():  # it began at the same moment
                self.end()
            raise

    def end(self) -> None:
        """Ends a turn, and begins the next one."""
        self._free += 1
        while self._free and self._line:
            _, turn = self._line.next()
            if not turn.cancelled():
                self._free -= 1
                turn.set_result(None)

    @asynccontextmanager
    async def of(self, tenant: str) -> AsyncGenerator[None]:
        """Has a turn for the length of the block. On cancel: it is given on."""
        await self.begin(tenant)
        try:
            yield
        finally:
            self.end()
