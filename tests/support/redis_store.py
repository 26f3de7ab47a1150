"""A guarded store in a Redis server, and short ways to use it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from precall_service.cache.base import (
    CacheKey,
    CacheStore,
    Change,
    ChangeKind,
    Conditions,
    Dependency,
    Origin,
    Stored,
    StoreUnavailableError,
    Value,
)
from precall_service.cache.guard import GuardedStore
from precall_service.cache.redis.opening import redis_store
from precall_service.domain.tools import CacheScope
from precall_service.loop_clock import LoopClock
from tests.support.redis_server import RedisServer

TENANT = "ann"
NODES = ["a:"]
READ = Dependency("file:/a", ("=file:/a",))
WRITTEN = Change(kind=ChangeKind.RESOURCE, names=("file:/a",))
PATIENT_S = 5.0
"""A timeout that no working server exceeds, however busy this machine is."""
HASTY_S = 0.05


def key(tenant: str = TENANT, number: int = 0) -> CacheKey:
    return CacheKey(
        tenant=tenant,
        scope=CacheScope.TENANT,
        conversation_id="",
        tool_name="look",
        tool_version="1",
        arguments_json=f'{{"n":{number}}}',
        digest=number.to_bytes(32, "big"),
    )


def value(result: str = "0") -> Value:
    return Value(
        result_json=result,
        content="",
        execution_id="",
        origin=Origin.COMMITTED,
        cost_s=1.0,
        ttl_s=600.0,
    )


@asynccontextmanager
async def opened(
    server: RedisServer | str, *, timeout_s: float = PATIENT_S
) -> AsyncGenerator[GuardedStore]:
    store = redis_store(
        server if isinstance(server, str) else server.url,
        LoopClock(),
        key_prefix="test",
        timeout_s=timeout_s,
        nodes_max=1000,
        changes_max=1000,
    )
    async with store:
        yield store


async def put(store: CacheStore, result: str = "0", *, snapshot: int | None = None) -> bool:
    conditions = Conditions(snapshot=snapshot)
    return isinstance(await store.put(key(), value(result), NODES, [READ], conditions), Stored)


async def result(store: CacheStore) -> str | None:
    entry = (await store.look_up(key(), NODES)).entry
    return None if entry is None else entry.value.result_json


async def write(store: CacheStore) -> int:
    return await store.advance(TENANT, READ.nodes, WRITTEN)


async def until(holds: Callable[[], bool]) -> None:
    """Waits until something holds; the timeout of the test bounds it."""
    while not holds():  # noqa: ASYNC110 - there is no event to wait for
        await asyncio.sleep(0.005)


async def back(store: GuardedStore) -> None:
    await until(lambda: store.available)


async def unavailable(operation: Awaitable[object]) -> str:
    with pytest.raises(StoreUnavailableError) as caught:
        await operation
    return str(caught.value)
