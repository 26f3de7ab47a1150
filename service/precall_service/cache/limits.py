"""The limits of the cache."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheLimits:
    """Limits of the cache. Sizes are in bytes of UTF-8.

    Attributes:
        entry_bytes_max: Larger results are passed on but not stored.
        ttl_max_s: The longest time for which a client's Put may be used.
        watches_max: The streams of Watch that may be open in all.
        watches_per_tenant_max: The streams of Watch that one tenant may have open.
    """

    entry_bytes_max: int = 1 << 20
    ttl_max_s: float = 7 * 86_400.0
    watches_max: int = 256
    watches_per_tenant_max: int = 64
