"""The cache of tool results, as turns and clients use it.

Owns: the rules of the cache: what an entry depends on, what may be stored, and the counts.
Never: where entries are kept (`CacheStore`), or when handlers run.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass

from precall_service.cache.base import (
    CacheKey,
    Change,
    Entry,
    LoggedChange,
    ResourceVersion,
    Value,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheLimits:
    """Limits of the cache. Sizes are in bytes of UTF-8."""

    entry_bytes_max: int
    ttl_max_s: float


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


class ToolCache:
    """The cache of tool results."""

    # For clients. Every method raises ServiceError.

    async def get(self, key: CacheKey) -> Entry:
        """Returns the usable entry.

        Raises:
            ServiceError: CACHE_ENTRY_UNKNOWN or CACHE_STORE_UNAVAILABLE.
        """
        raise NotImplementedError

    async def put(
        self,
        key: CacheKey,
        value: Value,
        observed: Sequence[ResourceVersion],
        entry_version: int | None,
    ) -> int:
        """Stores a client's result, and returns the version of the entry.

        Raises:
            ServiceError: TOO_LARGE, FIELD_INVALID, CACHE_RESOURCE_CHANGED, CACHE_VERSION_MISMATCH
                or CACHE_STORE_UNAVAILABLE.
        """
        raise NotImplementedError

    async def resource_versions(
        self, tenant: str, names: Sequence[str]
    ) -> tuple[ResourceVersion, ...]:
        """Returns the current versions of resources, in the order of their names.

        Raises:
            ServiceError: CACHE_STORE_UNAVAILABLE.
        """
        raise NotImplementedError

    async def invalidate(self, tenant: str, change: Change) -> int:
        """Makes entries unreachable, and returns the position of the change.

        Raises:
            ServiceError: CACHE_STORE_UNAVAILABLE.
        """
        raise NotImplementedError

    def watch(self, tenant: str, after: int | None) -> AsyncGenerator[LoggedChange]:
        """Yields changes; see `CacheStore.watch`.

        Raises:
            ServiceError: LIMIT_REACHED if too many watch, or CACHE_STORE_UNAVAILABLE.
        """
        raise NotImplementedError

    async def stats(self, tenant: str) -> CacheStats:
        """Returns the statistics of a tenant. If the store cannot be reached, it holds nothing."""
        raise NotImplementedError
