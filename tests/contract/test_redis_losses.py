"""If Redis loses any of its keys, the entries that depend on them become stale."""

from __future__ import annotations

import itertools
from collections.abc import AsyncGenerator

import pytest

from precall_service.cache.base import (
    Change,
    Changed,
    ChangeKind,
    Conditions,
    Origin,
    Stored,
    Value,
)
from precall_service.cache.keys import entry_nodes
from precall_service.cache.redis.connection import Server
from precall_service.cache.redis.store import RedisStore
from precall_service.domain.resources import write_nodes
from tests.support.cache_acts import KEY, dependency, store_key
from tests.support.redis_server import RedisServer

NAME = "file:/a"
CHANGE = Change(kind=ChangeKind.RESOURCE, names=(NAME,))
OTHER = Change(kind=ChangeKind.RESOURCE, names=("file:/z",))
ENTRY = store_key(KEY)
VALUE = Value(
    result_json="1", content="", execution_id="", origin=Origin.PUT, cost_s=1.0, ttl_s=600.0
)


@pytest.fixture
async def store(redis_server: RedisServer) -> AsyncGenerator[RedisStore]:
    store = RedisStore(
        Server(redis_server.url), key_prefix="precall", nodes_max=100, changes_max=10
    )
    yield store
    await store.close()


async def keep(store: RedisStore, snapshot: int) -> bool:
    outcome = await store.put(
        ENTRY, VALUE, entry_nodes(ENTRY), [dependency(NAME)], Conditions(snapshot=snapshot)
    )
    assert isinstance(outcome, Stored | Changed)
    return isinstance(outcome, Stored)


async def usable(store: RedisStore) -> bool:
    return (await store.look_up(ENTRY, entry_nodes(ENTRY))).entry is not None


KEYS = ("versions", "log", "pending", "writes")
LOSSES = [
    lost for count in (1, 2, 3, 4) for lost in itertools.combinations((*KEYS, "server"), count)
]


def lose(redis_server: RedisServer, lost: tuple[str, ...]) -> None:
    with redis_server.client() as client:
        for key in lost:
            client.delete("precall:1:server" if key == "server" else f"precall:1:ann:{key}")


LOSSES_THEN = [
    pytest.param(
        lost,
        then,
        id=f"{'+'.join(lost)}, {then}",
    )
    for then in ("nothing", "announce", "write", "settle")
    for lost in LOSSES
]


@pytest.mark.parametrize(("lost", "then"), LOSSES_THEN)
async def test_a_write_whose_server_died_is_ended_whatever_is_lost(
    store: RedisStore, redis_server: RedisServer, lost: tuple[str, ...], then: str
) -> None:
    await store.announce("ann", "other", write_nodes("file:/y"), OTHER, 600.0)
    await store.announce("ann", "dead", write_nodes(NAME), CHANGE, 30.0)
    snapshot = (await store.look_up(ENTRY, entry_nodes(ENTRY))).snapshot
    await keep(store, snapshot)
    lose(redis_server, lost)
    match then:
        case "announce":
            await store.announce("ann", "later", write_nodes("file:/z"), OTHER, 600.0)
        case "write":
            await store.advance("ann", write_nodes("file:/z"), OTHER)
        case "settle":
            await store.advance("ann", write_nodes("file:/y"), OTHER, settles="other")
        case _:
            pass
    redis_server.pass_time(31.0)
    assert not await usable(store), "what was read while the dead server wrote was served"
    assert not await keep(store, snapshot)


@pytest.mark.parametrize("lost", LOSSES, ids="+".join)
async def test_no_write_is_undone_by_a_loss(
    store: RedisStore, redis_server: RedisServer, lost: tuple[str, ...]
) -> None:
    snapshot = (await store.look_up(ENTRY, entry_nodes(ENTRY))).snapshot
    assert await keep(store, snapshot)
    [before] = (await store.versions("ann", [dependency(NAME)])).versions
    position = await store.advance("ann", write_nodes(NAME), CHANGE)
    lose(redis_server, lost)
    assert not await usable(store)
    assert not await keep(store, snapshot)
    assert (await store.versions("ann", [dependency(NAME)])).versions[0] > before
    assert await store.advance("ann", write_nodes(NAME), CHANGE) > position
