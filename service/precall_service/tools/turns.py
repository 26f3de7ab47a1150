"""Lets tenants take turns at something of which there is one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


@dataclass(slots=True)
class _Queue:
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    users: int = 0


class FairTurns:
    """One turn at a time. Of each tenant at most one waits for it, so that all are served in turn.

    What waits is bounded by its callers: each stream waits for one turn, or a call of a turn does.
    """

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._queues: dict[str, _Queue] = {}

    @asynccontextmanager
    async def of(self, tenant: str) -> AsyncGenerator[None]:
        """Holds the turn for the length of the block. On cancel: the turn is given on."""
        queue = self._queues.setdefault(tenant, _Queue())
        queue.users += 1
        try:
            async with queue.lock, self._turn:
                yield
        finally:
            queue.users -= 1
            if not queue.users:
                del self._queues[tenant]
