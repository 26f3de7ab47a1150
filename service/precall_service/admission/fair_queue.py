"""The turns that wait, in the order in which they get a share: dominant resource fairness.

What a tenant holds is the larger of two fractions: its turns of all slots, and its tokens of the KV
cache. The next share goes to the tenant that holds least of the engine, and among equals to the one
that was served longest ago. Within a tenant, turns that return from slow tools go before its new
ones, and each of the two in order of arrival. docs/adr/0028 says why it is this order.

Owns: the waiting turns, and how much each tenant holds.
Never: decides whether there is room.
Concurrency: synchronous. All operations take O(log n) time for n tenants, but for `resize` and
    `order`.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from precall_service.admission.share import Share, ShareState

_STALE_MAX: Final = 64
"""Outdated entries that the heap may have beside as many as there are tenants."""

_Key: TypeAlias = tuple[bool, float, int]
"""Whether the tenant has as many turns as it may, what it holds, and when it was served."""


@dataclass(slots=True)
class _Tenant:
    """What one tenant holds and waits for."""

    turns: int = 0
    tokens: int = 0
    served: int = 0
    """Grows with the time when it was served, or when its first waiting turn came."""
    entry: int = -1
    """The number of its valid entry in the heap; -1 if it has none."""
    returning: OrderedDict[Share, None] = field(default_factory=OrderedDict[Share, None])
    new: OrderedDict[Share, None] = field(default_factory=OrderedDict[Share, None])

    @property
    def waits(self) -> bool:
        return bool(self.returning or self.new)

    def first(self) -> Share:
        return next(iter(self.returning or self.new))


class FairQueue:
    """Waiting turns, and what each tenant holds."""

    def __init__(self, running_per_tenant_max: int | None) -> None:
        self._turns_max = math.inf if running_per_tenant_max is None else running_per_tenant_max
        self._slots = 1
        self._kv_tokens: int | None = None
        self._tenants: dict[str, _Tenant] = {}
        self._heap: list[tuple[_Key, int, _Tenant]] = []
        self._numbers = itertools.count()
        self._waiting = 0

    def __len__(self) -> int:
        return self._waiting

    def new_turns(self, tenant: str) -> int:
        """How many turns of the tenant wait for their first admission."""
        queues = self._tenants.get(tenant)
        return 0 if queues is None else len(queues.new)

    def by_tenant(self) -> dict[str, int]:
        """How many turns of each tenant wait."""
        return {
            name: len(tenant.returning) + len(tenant.new)
            for name, tenant in self._tenants.items()
            if tenant.waits
        }

    def resize(self, *, slots: int, kv_tokens: int | None) -> None:
        """Sets what the engine has, of which tenants hold fractions."""
        self._slots, self._kv_tokens = max(slots, 1), kv_tokens
        self._rebuild()

    def add(self, share: Share) -> None:
        """Adds a turn that waits; the state of the share says for what."""
        tenant = self._tenants.setdefault(share.tenant, _Tenant())
        if not tenant.waits:
            tenant.served = next(self._numbers)
        queue = tenant.returning if share.state is ShareState.RETURNING else tenant.new
        queue[share] = None
        self._waiting += 1
        self._update(tenant)

    def remove(self, share: Share) -> None:
        """Removes a turn that no longer waits."""
        tenant = self._leave(share)
        self._update(tenant)
        self._forget(share.tenant)

    def head(self) -> Share | None:
        """The turn that is next; None if there is none, or all tenants have what they may."""
        while self._heap and self._heap[0][2].entry != self._heap[0][1]:
            heapq.heappop(self._heap)
        if not self._heap or self._heap[0][0][0]:
            return None
        return self._heap[0][2].first()

    def take(self, share: Share) -> None:
        """Gives a waiting turn its share: from now on, the tenant holds it."""
        tenant = self._leave(share)
        tenant.served = next(self._numbers)
        tenant.turns += 1
        tenant.tokens += share.tokens
        self._update(tenant)

    def grow(self, share: Share, tokens: int) -> None:
        """Enlarges a share that is held by so many tokens."""
        tenant = self._tenants[share.tenant]
        tenant.tokens += tokens
        self._update(tenant)

    def give_back(self, share: Share) -> None:
        """Takes back a share that was held."""
        tenant = self._tenants[share.tenant]
        tenant.turns -= 1
        tenant.tokens -= share.tokens
        self._update(tenant)
        self._forget(share.tenant)

    def order(self) -> Iterator[Share]:
        """The turns that wait now, in the order in which they would start if no turn ended.

        The iterator is not disturbed by what happens meanwhile; it may yield turns that have left.
        """
        waiting = [
            (self._key(tenant), [*tenant.returning, *tenant.new], tenant.turns, tenant.tokens)
            for tenant in self._tenants.values()
            if tenant.waits
        ]
        return self._merged(waiting)

    def _merged(self, waiting: list[tuple[_Key, list[Share], int, int]]) -> Iterator[Share]:
        served = itertools.count(max((key[2] for key, *_ in waiting), default=0) + 1)
        heap = [
            (key, next(served), iter(shares), turns, tokens)
            for key, shares, turns, tokens in waiting
        ]
        heapq.heapify(heap)
        while heap:
            _, _, shares, turns, tokens = heap[0]
            share = next(shares, None)
            if share is None:
                heapq.heappop(heap)
                continue
            yield share
            number, turns, tokens = next(served), turns + 1, tokens + share.tokens
            key = (turns >= self._turns_max, self._fraction(turns, tokens), number)
            heapq.heapreplace(heap, (key, number, shares, turns, tokens))

    def _key(self, tenant: _Tenant) -> _Key:
        full = tenant.turns >= self._turns_max
        return full, self._fraction(tenant.turns, tenant.tokens), tenant.served

    def _fraction(self, turns: int, tokens: int) -> float:
        of_slots = turns / self._slots
        return of_slots if not self._kv_tokens else max(of_slots, tokens / self._kv_tokens)

    def _leave(self, share: Share) -> _Tenant:
        tenant = self._tenants[share.tenant]
        queue = tenant.returning if share in tenant.returning else tenant.new
        del queue[share]
        self._waiting -= 1
        return tenant

    def _update(self, tenant: _Tenant) -> None:
        """Gives the tenant's entry in the heap its present key. The old entry is outdated."""
        if not tenant.waits:
            tenant.entry = -1
            return
        tenant.entry = next(self._numbers)
        heapq.heappush(self._heap, (self._key(tenant), tenant.entry, tenant))
        if len(self._heap) > 2 * len(self._tenants) + _STALE_MAX:
            self._rebuild()

    def _rebuild(self) -> None:
        self._heap = [
            (self._key(tenant), tenant.entry, tenant)
            for tenant in self._tenants.values()
            if tenant.entry >= 0
        ]
        heapq.heapify(self._heap)

    def _forget(self, name: str) -> None:
        tenant = self._tenants[name]
        if not (tenant.waits or tenant.turns):
            del self._tenants[name]
