"""A cache store of each kind, and short ways to use one."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from precall_service.cache.base import (
    CacheKey,
    CacheStore,
    Change,
    Changed,
    ChangeKind,
    Conditions,
    Dependency,
    LoggedChange,
    Lookup,
    Mismatched,
    NotYet,
    Origin,
    Stored,
    Value,
)
from precall_service.cache.memory import MemoryStore
from precall_service.cache.redis.connection import Server
from precall_service.cache.redis.store import RedisStore
from precall_service.domain.tools import CacheScope
from tests.support.clock import ManualClock
from tests.support.redis_server import RedisServer

TENANT = "ann"
NODES = ("a:", "t:look")
TTL_S = 60.0
NODES_MAX = 8
CHANGES_MAX = 4

READ = Dependency("file:/a", ("=file:/a", "*file:"))
OTHER = Dependency("file:/b", ("=file:/b", "*file:"))


@dataclass
class Opened:
    """A store, and how to let time pass for what it holds."""

    store: CacheStore
    pass_time: Callable[[float], None]


@asynccontextmanager
async def memory_store() -> AsyncGenerator[Opened]:
    clock = ManualClock()
    store = MemoryStore(clock, bytes_max=64 << 20, nodes_max=NODES_MAX, changes_max=CHANGES_MAX)
    yield Opened(store, clock.advance)
    await store.close()


@asynccontextmanager
async def redis_store(server: RedisServer) -> AsyncGenerator[Opened]:
    store = RedisStore(
        Server(server.url), key_prefix="test", nodes_max=NODES_MAX, changes_max=CHANGES_MAX
    )
    yield Opened(store, server.pass_time)
    await store.close()


def key(
    arguments: str = "{}", *, tenant: str = TENANT, version: str = "1", conversation: str = ""
) -> CacheKey:
    """A key; those of different arguments have different digests."""
    return CacheKey(
        tenant=tenant,
        scope=CacheScope.CONVERSATION if conversation else CacheScope.TENANT,
        conversation_id=conversation,
        tool_name="look",
        tool_version=version,
        arguments_json=arguments,
        digest=arguments.encode(errors="replace").ljust(32, b"\0")[:32],
    )


def value(result: str = '"r"', *, ttl_s: float = TTL_S, content: str = "r") -> Value:
    return Value(
        result_json=result,
        content=content,
        execution_id="exec-1",
        origin=Origin.COMMITTED,
        cost_s=1.5,
        ttl_s=ttl_s,
    )


KEY = key()
ANY = Conditions()


def resource(name: str) -> Change:
    return Change(kind=ChangeKind.RESOURCE, names=(name,))


WRITTEN = resource("file:/a")


async def put(
    store: CacheStore,
    of: CacheKey = KEY,
    what: Value | None = None,
    conditions: Conditions = ANY,
    reads: tuple[Dependency, ...] = (READ,),
) -> Stored | Changed | Mismatched | NotYet:
    return await store.put(of, what or value(), NODES, reads, conditions)


async def stored(store: CacheStore, of: CacheKey = KEY, what: Value | None = None) -> int:
    outcome = await put(store, of, what)
    assert isinstance(outcome, Stored)
    return outcome.entry_version


async def look(store: CacheStore, of: CacheKey = KEY, nodes: tuple[str, ...] = NODES) -> Lookup:
    return await store.look_up(of, nodes)


async def result(store: CacheStore, of: CacheKey = KEY) -> str | None:
    entry = (await look(store, of)).entry
    return None if entry is None else entry.value.result_json


async def version(store: CacheStore, of: Dependency = READ, tenant: str = TENANT) -> int:
    [found] = (await store.versions(tenant, [of])).versions
    return found


async def take(changes: AsyncGenerator[LoggedChange], count: int) -> list[LoggedChange]:
    return [await anext(changes) for _ in range(count)]
