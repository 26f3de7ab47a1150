"""Opens a guarded store by URL."""

from __future__ import annotations

from precall_service.cache.guard import GuardedStore, GuardPolicy
from precall_service.cache.redis.connection import Server
from precall_service.cache.redis.store import RedisStore
from precall_service.domain.clock import Clock


def redis_store(
    url: str,
    clock: Clock,
    *,
    key_prefix: str,
    timeout_s: float,
    nodes_max: int,
    changes_max: int,
) -> GuardedStore:
    """Returns the store at a URL. It connects where its `async with` block begins.

    A server that cannot be reached is no error: the store begins its life down.

    Raises:
        StoreUrlError: the URL is malformed.
        ValueError: the prefix is.
    """
    store = RedisStore(
        Server(url), key_prefix=key_prefix, nodes_max=nodes_max, changes_max=changes_max
    )
    return GuardedStore(store, clock, GuardPolicy(timeout_s=timeout_s))
