"""Opens a guarded store by URL, or checks whether one could be opened."""

from __future__ import annotations

import re

from precall_service.cache.guard import GuardedStore
from precall_service.cache.guard_policy import GuardPolicy
from precall_service.cache.redis.connection import Channel, Server, pack
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
    """Returns the store at a URL. It connects when its `async with` block is entered.

    It is not an error if the server cannot be reached: the store is then down at first.

    Raises:
        StoreUrlError: the URL is malformed.
        ValueError: the prefix is invalid.
    """
    store = RedisStore(
        Server(url), key_prefix=key_prefix, nodes_max=nodes_max, changes_max=changes_max
    )
    return GuardedStore(store, clock, GuardPolicy(timeout_s=timeout_s))


async def describe_server(url: str) -> str:
    """Returns the kind, version and address of the server at a URL. Changes nothing there.

    Raises:
        StoreUrlError: the URL is malformed.
        StoreUnavailableError: the server cannot be reached, or refuses the credentials.
        ResponseError: the user has no permission to read the version.
    """
    server = Server(url)
    channel = Channel(await server.connect())
    try:
        info = await channel.call(pack("INFO", "server"))
    finally:
        await channel.close()
    assert isinstance(info, bytes)
    found = dict(re.findall(r"(?m)^(\w+):(.*?)\r?$", info.decode(errors="replace")))
    if "valkey_version" in found:
        return f"Valkey {found['valkey_version']} at {server.name}"
    return f"Redis {found.get('redis_version', 'of unknown version')} at {server.name}"
