"""However and whenever the store fails, a server never serves anything stale.

The remote store is a store in memory behind a connection that refuses, loses or delays operations.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st

from precall_service.cache import guard
from precall_service.cache.base import (
    CacheKey,
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
    Size,
    Stored,
    StoreUnavailableError,
    Value,
    Versions,
)
from precall_service.cache.cache import ToolCache
from precall_service.cache.guard import GuardedStore
from precall_service.cache.keys import invalidated_nodes
from precall_service.cache.limits import CacheLimits
from precall_service.cache.memory import MemoryStore
from precall_service.cache.query import CacheQuery, cache_query
from precall_service.cache.remote import StoreLostError
from precall_service.cache.writes import ToolWrite
from precall_service.domain.resources import ResourceTemplate
from precall_service.domain.tools import CacheScope, ToolDeclaration, ToolEffects
from tests.support.clock import ManualClock, settle

T = TypeVar("T")

PATHS: tuple[str, ...] = ("/a", "/b")
MODES = ("refuse", "lost", "answer lost", "hang", "late")


class Line:
    """A remote store. `mode` says what happens to an operation."""

    name = "memory"

    def __init__(self, store: MemoryStore) -> None:
        self.mode = "well"
        self._store = store
        self._late: list[Callable[[], Coroutine[Any, Any, object]]] = []

    async def _carry(self, operation: Callable[[], Coroutine[Any, Any, T]]) -> T:
        match self.mode:
            case "refuse":
                raise StoreUnavailableError("it is busy")
            case "lost":
                raise StoreLostError("the connection is lost")
            case "answer lost":
                await operation()
                raise StoreLostError("the connection is lost")
            case "hang":
                await asyncio.Event().wait()
            case "late":
                self._late.append(operation)
                await asyncio.Event().wait()
            case _:
                pass
        return await operation()

    async def catch_up(self) -> None:
        """Delivers the delayed operations."""
        late, self._late = self._late, []
        for operation in late:
            await operation()

    def concerns(self, tenant: str) -> bool:
        return True

    async def look_up(self, key: CacheKey, nodes: Sequence[str]) -> Lookup:
        return await self._carry(lambda: self._store.look_up(key, nodes))

    async def put(
        self,
        key: CacheKey,
        value: Value,
        nodes: Sequence[str],
        dependencies: Sequence[Dependency],
        conditions: Conditions,
    ) -> Stored | Changed | Mismatched | NotYet:
        return await self._carry(
            lambda: self._store.put(key, value, nodes, dependencies, conditions)
        )

    async def versions(self, tenant: str, dependencies: Sequence[Dependency]) -> Versions:
        return await self._carry(lambda: self._store.versions(tenant, dependencies))

    async def advance(
        self, tenant: str, nodes: Sequence[str], change: Change | None, *, settles: str = ""
    ) -> int:
        return await self._carry(
            lambda: self._store.advance(tenant, nodes, change, settles=settles)
        )

    async def announce(
        self, tenant: str, write_id: str, nodes: Sequence[str], change: Change, within_s: float
    ) -> None:
        await self._carry(lambda: self._store.announce(tenant, write_id, nodes, change, within_s))

    async def drop(self, key: CacheKey, nodes: Sequence[str] = ()) -> int:
        return await self._carry(lambda: self._store.drop(key, nodes))

    def watch(self, tenant: str, after: int | None) -> AsyncGenerator[LoggedChange]:
        return self._store.watch(tenant, after)

    async def size(self, tenant: str) -> Size:
        return await self._carry(lambda: self._store.size(tenant))

    async def remember(self, tenant: str, record: bytes) -> None:
        await self._carry(lambda: self._store.remember(tenant, record))

    async def recall(self, tenant: str, after: int) -> list[tuple[int, bytes]]:
        return await self._carry(lambda: self._store.recall(tenant, after))

    async def connect(self) -> None:
        if self.mode != "well":
            raise StoreLostError("it does not answer")

    async def disconnect(self) -> None:
        """What was on its way may still arrive later."""

    async def advance_epoch(self) -> None:
        change = Change(kind=ChangeKind.ALL)
        await self._carry(lambda: self._store.advance("ann", invalidated_nodes(change), change))

    async def close(self) -> None:
        pass


def tool(
    name: str, effects: ToolEffects, **templates: tuple[ResourceTemplate, ...]
) -> ToolDeclaration:
    return ToolDeclaration(
        name=name,
        version="1",
        digest="",
        description="",
        input_schema={},
        output_schema=None,
        effects=effects,
        timeout_s=20.0,
        max_concurrency=1,
        cache_ttl_s=1e6 if effects.read_only else 0.0,
        cache_scope=CacheScope.TENANT,
        reads=templates.get("reads", ()),
        writes=templates.get("writes", ()),
    )


FILE = (ResourceTemplate.parse("file:{path}"),)
READ = tool("read", ToolEffects(read_only=True), reads=FILE)
WRITE = tool("write", ToolEffects(), writes=FILE)


@dataclass
class Reading:
    """A read that has started, with the value that it has read."""

    query: CacheQuery
    snapshot: int
    value: int


class Play:
    """One server that reads and writes files."""

    def __init__(self, cache: ToolCache, line: Line, clock: ManualClock) -> None:
        self._cache = cache
        self._line = line
        self._clock = clock
        self._moment = 0
        self._files = dict.fromkeys(PATHS, 0)
        self._seen = dict.fromkeys(PATHS, 0)
        self._reading: list[Reading] = []
        self._writing: list[tuple[str, ToolWrite]] = []
        self.hits = 0

    async def act(self, kind: str, number: int) -> None:
        path = PATHS[number % len(PATHS)]
        match kind:
            case "read":
                await self._read(path)
            case "read and keep":
                await self._read(path)
                while self._reading:
                    await self._keep(self._reading.pop())
            case "keep" if self._reading:
                await self._keep(self._reading.pop(number % len(self._reading)))
            case "begin":
                write = self._cache.write("ann", "conv-1", WRITE, {"path": path})
                assert write is not None
                await self._finish(write.begin(20.0))
                self._writing.append((path, write))
            case "end" if self._writing:
                await self._end(*self._writing.pop(number % len(self._writing)))
            case "break":
                self._line.mode = MODES[number % len(MODES)]
            case "well":
                self._line.mode = "well"
            case "mend":
                self._line.mode = "well"
                for _ in range(4):
                    await self._pass_time(6.0)
            case "catch up":
                await self._line.catch_up()
            case _:
                await self._pass_time((0.05, 0.3, 6.0)[number % 3])

    async def _pass_time(self, seconds: float) -> None:
        self._clock.advance(seconds)
        await settle()

    async def _finish(self, work: Awaitable[T]) -> T:
        """Lets time pass until something has ended."""
        task = asyncio.ensure_future(work)
        for _ in range(50):
            await settle()
            if task.done():
                return task.result()
            self._clock.advance(0.05)
        raise AssertionError("the cache did not answer in a bounded time")

    async def _read(self, path: str) -> None:
        query = cache_query("ann", "conv-1", READ, {"path": path})
        assert query is not None
        least = self._seen[path]
        lookup = await self._finish(self._cache.find(query))
        if lookup is None:
            return
        if lookup.entry is None:
            self._reading.append(Reading(query, lookup.snapshot, self._files[path]))
            return
        self.hits += 1
        assert int(lookup.entry.value.result_json) >= least, "an old result was served"

    async def _keep(self, reading: Reading) -> None:
        await self._finish(
            self._cache.keep(
                reading.query,
                reading.snapshot,
                result_json=str(reading.value),
                content="",
                execution_id="",
                origin=Origin.COMMITTED,
                cost_s=1.0,
            )
        )

    async def _end(self, path: str, write: ToolWrite) -> None:
        self._moment += 1
        self._files[path] = self._moment
        await self._finish(write.end())
        self._seen[path] = self._files[path]

    async def served_when_well(self) -> None:
        """Once the store works again, fresh entries are served."""
        await self.act("mend", 0)
        for path in PATHS:
            hits = self.hits
            for _ in range(2):
                await self.act("read and keep", PATHS.index(path))
            assert self.hits > hits, "the store is back, and nothing is served"


ACTS = st.tuples(
    st.sampled_from(
        [
            *["read and keep"] * 5,
            *("read", "read", "keep", "keep", "begin", "begin", "end", "end", "end"),
            *("break", "break", "well", "well", "mend", "catch up", "time"),
        ]
    ),
    st.sampled_from([0, 0, *range(12)]),
)


@settings(max_examples=250)
@given(st.lists(ACTS, min_size=10, max_size=50))
def test_one_server_serves_nothing_old_however_its_store_fails(acts: list[tuple[str, int]]) -> None:
    async def play() -> None:
        clock = ManualClock()
        line = Line(MemoryStore(clock, bytes_max=1 << 20, nodes_max=100, changes_max=10))
        async with GuardedStore(line, clock) as store, ToolCache(store, CacheLimits()) as cache:
            played = Play(cache, line, clock)
            for kind, number in acts:
                await played.act(kind, number)
            await played.served_when_well()

    with mock.patch.object(guard, "MISSED_MAX", 2):
        asyncio.run(play())
