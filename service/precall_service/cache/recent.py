"""The calls whose results the cache has stored or served lately: those that may be made again.

Owns: their keys, bounded in number; the oldest are forgotten. Kept in the process, never shared.
"""

from __future__ import annotations

from typing import Final

from cachetools import LRUCache

from precall_service.cache.base import CacheKey
from precall_service.domain.tools import CacheScope

TENANTS_MAX: Final = 1024
CALLS_MAX: Final = 32
"""The calls of one tenant."""
ARGUMENTS_CHARS_MAX: Final = 4096
"""Calls with longer arguments are not remembered."""


class RecentCalls:
    """Remembers the latest calls of each tenant, and how often each was made or stored."""

    def __init__(self) -> None:
        self._tenants: LRUCache[str, LRUCache[bytes, tuple[CacheKey, int]]] = LRUCache(TENANTS_MAX)

    def note(self, key: CacheKey) -> None:
        """Notes that the result of a call was stored or served."""
        if len(key.arguments_json) > ARGUMENTS_CHARS_MAX:
            return
        calls = self._tenants.get(key.tenant)
        if calls is None:
            calls = self._tenants[key.tenant] = LRUCache(CALLS_MAX)
        _, uses = calls.get(key.digest, (key, 0))
        calls[key.digest] = key, uses + 1

    def of(self, tenant: str, conversation_id: str) -> list[tuple[CacheKey, int]]:
        """Returns the calls that a conversation may see, and how often each was used."""
        calls = self._tenants.get(tenant)
        return [
            (key, uses)
            for key, uses in (() if calls is None else calls.values())
            if key.scope is CacheScope.TENANT or key.conversation_id == conversation_id
        ]
