"""Work that tenants have done before their turns are admitted, a few pieces at once, by turns.

Self-clocked fair queueing: a piece of work gets a tag, which is its cost after the later of two
points: the tag of its tenant's last piece, and that of the piece that was begun last. The piece
with the lowest tag goes first. So a tenant with much work delays its own, a small piece goes before
large ones of others, and a large one waits for no more than a bounded amount of later work.

Owns: the pieces that wait, and the number that are being done.
Never: does the work.
Concurrency: one event loop.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from precall_service.admission.limits import AdmissionLimits

_STALE_MAX: Final = 64
"""Pieces that were given up, and tags in the past, that may be kept beside those that wait."""


@dataclass(eq=False, slots=True)
class _Piece:
    tenant: str
    turn: asyncio.Future[None]
    """Done once the piece may be begun."""


class FairStage:
    """Admits pieces of work, `limits.prompts_at_once` at a time."""

    def __init__(self, limits: AdmissionLimits) -> None:
        self._limits = limits
        self._free = limits.prompts_at_once
        self._heap: list[tuple[float, int, _Piece]] = []
        self._waiting: Counter[str] = Counter()
        self._tags: dict[str, float] = {}
        """The tag of each tenant's last piece, where it is not in the past."""
        self._now = 0.0
        """The tag of the piece that was begun last."""
        self._numbers = itertools.count()

    @property
    def waiting(self) -> int:
        """Pieces that wait."""
        return self._waiting.total()

    @asynccontextmanager
    async def place(self, tenant: str, cost: float, *, begins: bool) -> AsyncGenerator[None]:
        """Waits until the tenant's piece of work may be done; the block does it.

        `cost` is in any unit that all pieces share. `begins` says that a turn begins with it, which
        may be refused; a turn that has begun is not, and there are no more of those than turns.

        On cancel: the piece leaves its place. What it would have cost still counts.

        Raises:
            ServiceError: OVERLOADED, too many turns wait.
        """
        if begins:
            of_tenant, in_all = self._waiting[tenant], self.waiting
            self._limits.check_room(tenant, of_tenant=of_tenant, in_all=in_all)
        await self._begin(tenant, cost)
        try:
            yield
        finally:
            self._free += 1
            self._call_next()

    async def _begin(self, tenant: str, cost: float) -> None:
        tag = max(self._now, self._tags.get(tenant, 0.0)) + cost
        self._tags[tenant] = tag
        piece = _Piece(tenant, asyncio.get_running_loop().create_future())
        heapq.heappush(self._heap, (tag, next(self._numbers), piece))
        self._waiting[tenant] += 1
        self._call_next()
        try:
            await piece.turn
        except asyncio.CancelledError:
            if piece.turn.cancelled():
                self._leave(piece)
            else:  # it was called in the same moment
                self._free += 1
                self._call_next()
            raise

    def _call_next(self) -> None:
        while self._free and self._heap:
            tag, _, piece = heapq.heappop(self._heap)
            if piece.turn.cancelled():
                continue
            self._now = tag
            self._free -= 1
            self._leave(piece)
            piece.turn.set_result(None)
        self._tidy()

    def _leave(self, piece: _Piece) -> None:
        self._waiting[piece.tenant] -= 1
        if not self._waiting[piece.tenant]:
            del self._waiting[piece.tenant]

    def _tidy(self) -> None:
        """Forgets what no longer counts, once that is more than what does."""
        waiting = self.waiting
        if len(self._heap) > 2 * waiting + _STALE_MAX:
            self._heap = [each for each in self._heap if not each[2].turn.done()]
            heapq.heapify(self._heap)
        if len(self._tags) > 2 * waiting + _STALE_MAX:
            self._tags = {name: tag for name, tag in self._tags.items() if tag > self._now}
