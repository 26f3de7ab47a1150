"""How often the service has said no, by tenant and reason.

Owns: the counts. They only grow, as the counters of a metric do.
Concurrency: one event loop; everything is synchronous.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Final

from cachetools import LRUCache

from precall_service.domain.errors import Reason

TENANTS_MAX: Final = 1024
"""Tenants that are counted apart. If there are more, the counts of the one that was refused least
recently are added to those of OTHERS, since clients may invent tenants."""
OTHERS: Final = "(others)"
"""No name of a tenant, which has no brackets."""


class RefusalCounts:
    """Counts what clients were refused, and the turns that failed."""

    def __init__(self) -> None:
        self._others: Counter[Reason] = Counter()
        self._by_tenant = _Tenants(self._others)

    def note(self, tenant: str, reason: Reason) -> None:
        """Counts one refusal."""
        counts = self._by_tenant.get(tenant)
        if counts is None:
            counts = self._by_tenant[tenant] = Counter()
        counts[reason] += 1

    def by_tenant(self) -> Mapping[str, Mapping[Reason, int]]:
        """Returns a copy of the counts."""
        counts = {tenant: dict(each) for tenant, each in self._by_tenant.items()}
        return counts | {OTHERS: dict(self._others)} if self._others else counts


class _Tenants(LRUCache[str, Counter[Reason]]):
    """The counts of the tenants; those that are dropped are added to the counts of the others."""

    def __init__(self, others: Counter[Reason]) -> None:
        super().__init__(TENANTS_MAX)
        self._others = others

    def popitem(self) -> tuple[str, Counter[Reason]]:
        """As `LRUCache.popitem`, which makes room."""
        tenant, counts = super().popitem()
        self._others.update(counts)
        return tenant, counts
