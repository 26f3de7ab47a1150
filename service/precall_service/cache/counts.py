"""What the cache has done for each tenant since the start of this server."""

from __future__ import annotations

from dataclasses import dataclass

from precall_service.cache.base import Size

TENANTS_MAX = 10_000
"""Above this number, the counts of the tenant that was counted first are forgotten."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheStats:
    """What the cache has done for a tenant since the start of this server, and what it holds."""

    entries: int
    bytes: int
    hits: int
    misses: int
    stale: int
    joined: int
    evictions: int
    time_saved_s: float
    store_failures: int
    store_available: bool


@dataclass(slots=True)
class TenantCounts:
    """The counts of one tenant.

    `stale` counts the misses that found a stale entry, `joined` the calls that shared another
    call's run, and `store_failures` the operations that failed because of the store.
    """

    hits: int = 0
    misses: int = 0
    stale: int = 0
    joined: int = 0
    time_saved_s: float = 0.0
    store_failures: int = 0

    def stats(self, size: Size, *, available: bool) -> CacheStats:
        """Returns these counts together with what the store holds."""
        return CacheStats(
            entries=size.entries,
            bytes=size.bytes,
            hits=self.hits,
            misses=self.misses,
            stale=self.stale,
            joined=self.joined,
            evictions=size.evictions,
            time_saved_s=self.time_saved_s,
            store_failures=self.store_failures,
            store_available=available,
        )


class Counts:
    """The counts of all tenants."""

    def __init__(self) -> None:
        self._tenants: dict[str, TenantCounts] = {}

    def of(self, tenant: str) -> TenantCounts:
        """Returns the counts of a tenant; the caller may change them."""
        counts = self._tenants.get(tenant)
        if counts is None:
            if len(self._tenants) >= TENANTS_MAX:
                del self._tenants[next(iter(self._tenants))]
            counts = self._tenants[tenant] = TenantCounts()
        return counts
