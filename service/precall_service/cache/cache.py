"""The cache of tool results, as turns and clients use it.

Owns: the rules of the cache (what an entry depends on, what may be stored) and its counts.
Never: decides where entries are kept (`CacheStore` does), or when handlers run.
Concurrency: one event loop. If the caller that records a write is cancelled, the recording goes on
    in the cache's task group, until the end of the `async with` block.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncGenerator, Coroutine, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Self

from precall_service.cache import refusals
from precall_service.cache.base import (
    CacheKey,
    CacheStore,
    Change,
    Changed,
    Conditions,
    Dependency,
    Entry,
    LoggedChange,
    Lookup,
    Mismatched,
    NotYet,
    Observation,
    Origin,
    ResourceVersion,
    Size,
    Stored,
    StoreUnavailableError,
    Value,
)
from precall_service.cache.counts import CacheStats, Counts
from precall_service.cache.keys import entry_nodes, invalidated_nodes, key_node
from precall_service.cache.limits import CacheLimits
from precall_service.cache.query import CacheQuery
from precall_service.cache.recent import RecentCalls
from precall_service.cache.writes import ToolWrite
from precall_service.domain.json import JsonObject
from precall_service.domain.resources import read_nodes
from precall_service.domain.tools import ToolDeclaration
from precall_service.incidents import report_defect

log = logging.getLogger(__name__)


class ToolCache:
    """The cache of tool results."""

    def __init__(self, store: CacheStore, limits: CacheLimits) -> None:
        self.limits = limits
        self._store = store
        self._counts = Counts()
        self.recent = RecentCalls()
        self._group = asyncio.TaskGroup()
        self._watches: Counter[str] = Counter()

    async def __aenter__(self) -> Self:
        """Starts the cache, which can be used until the end of the block."""
        await self._group.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Waits for the writes that are still being recorded. The store limits the time of each."""
        # The group is not given the error of the block, because it would wrap it.
        await self._group.__aexit__(None, None, None)

    # For turns. None of these methods raises: without its store, the cache finds and keeps nothing.

    async def find(self, query: CacheQuery) -> Lookup | None:
        """Returns what the cache has for a call; None if the store is not available.

        An entry that is older than the tool's own time to live is not returned.
        """
        try:
            lookup = await self._store.look_up(query.key, query.nodes)
        except StoreUnavailableError:
            self._counts.of(query.key.tenant).store_failures += 1
            return None
        except Exception as defect:  # noqa: BLE001 - a turn must not fail because of its cache
            report_defect(log, "a look-up in the tool cache", defect)
            return None
        entry = lookup.entry
        if entry is None or entry.age_s < query.ttl_s:
            return lookup
        return replace(lookup, entry=None)

    async def keep(
        self,
        query: CacheQuery,
        snapshot: int,
        *,
        result_json: str,
        content: str,
        execution_id: str,
        origin: Origin,
        cost_s: float,
    ) -> None:
        """Stores the result of a run that started at this snapshot.

        It is not stored if it is too large, or if something that it depends on has changed since
        the snapshot.
        """
        if _size(result_json, content) > self.limits.entry_bytes_max:
            return
        value = Value(
            result_json=result_json,
            content=content,
            execution_id=execution_id,
            origin=origin,
            cost_s=cost_s,
            ttl_s=query.ttl_s,
        )
        try:
            outcome = await self._store.put(
                query.key,
                value,
                entry_nodes(query.key),
                query.reads,
                Conditions(snapshot=snapshot, nodes=query.further),
            )
        except StoreUnavailableError:
            self._counts.of(query.key.tenant).store_failures += 1
            return
        if isinstance(outcome, Stored):
            self.recent.note(query.key)

    def write(
        self, tenant: str, conversation_id: str, tool: ToolDeclaration, arguments: JsonObject
    ) -> ToolWrite | None:
        """Returns what a run of a tool writes; None if it cannot make anything stale."""
        if tool.effects.read_only or not self._store.concerns(tenant):
            return None
        return ToolWrite(
            self._store,
            self.spawn,
            self._counts.of(tenant),
            tenant=tenant,
            resources=tool.written(arguments, conversation_id),
        )

    def count_hit(self, key: CacheKey, entry: Entry) -> None:
        """Counts a call that an entry answered."""
        self.recent.note(key)
        counts = self._counts.of(key.tenant)
        counts.hits += 1
        counts.time_saved_s += entry.value.cost_s

    def count_miss(self, tenant: str, *, stale: bool) -> None:
        """Counts a call that no entry answered; there may have been a stale one."""
        counts = self._counts.of(tenant)
        counts.misses += 1
        counts.stale += stale

    def count_joined(self, tenant: str) -> None:
        """Counts a call that shared the run of an equal call."""
        self._counts.of(tenant).joined += 1

    async def remember(self, tenant: str, record: bytes) -> None:
        """Keeps a record of what was learned about a tenant; it may be lost."""
        try:
            await self._store.remember(tenant, record)
        except StoreUnavailableError:
            self._counts.of(tenant).store_failures += 1
        except Exception as defect:  # noqa: BLE001 - learning must not fail because of its store
            report_defect(log, "the keeping of what was learned", defect)

    async def recall(self, tenant: str, after: int) -> list[tuple[int, bytes]] | None:
        """Returns the oldest kept records after a number, with their numbers.

        Returns a page of them: an empty one after the newest record, and None if the store is not
        available.
        """
        try:
            return await self._store.recall(tenant, after)
        except StoreUnavailableError:
            self._counts.of(tenant).store_failures += 1
        except Exception as defect:  # noqa: BLE001 - see above
            report_defect(log, "the reading of what was learned", defect)
        return None

    def spawn(self, work: Coroutine[object, object, None]) -> asyncio.Task[None]:
        """Starts work that goes on if its caller is cancelled. `__aexit__` waits for its end."""
        return self._group.create_task(_guarded(work))

    # For clients. Every method raises ServiceError.

    async def get(self, key: CacheKey) -> Entry:
        """Returns the usable entry.

        Raises:
            ServiceError: CACHE_ENTRY_UNKNOWN or CACHE_STORE_UNAVAILABLE.
        """
        counts = self._counts.of(key.tenant)
        with refusals.unavailable(counts):
            lookup = await self._store.look_up(key, entry_nodes(key))
        if lookup.entry is None:
            counts.misses += 1
            counts.stale += lookup.stale
            raise refusals.entry_unknown(key)
        counts.hits += 1
        counts.time_saved_s += lookup.entry.value.cost_s
        return lookup.entry

    async def put(
        self,
        key: CacheKey,
        value: Value,
        observed: Observation,
        entry_version: int | None,
    ) -> int:
        """Stores a client's result, and returns the version of the entry.

        It depends on the observed resources. If their position is known, nothing else that the
        entry depends on may have changed since then.

        Raises:
            ServiceError: TOO_LARGE, FIELD_INVALID, CACHE_RESOURCE_CHANGED, CACHE_VERSION_MISMATCH
                or CACHE_STORE_UNAVAILABLE.
        """
        size = _size(value.result_json, value.content)
        if size > self.limits.entry_bytes_max:
            raise refusals.value_too_large(size, self.limits.entry_bytes_max)
        dependencies = [_dependency(seen.resource) for seen in observed.versions]
        conditions = Conditions(
            snapshot=observed.position,
            nodes=(key_node(key),),
            observed=observed.versions,
            entry_version=entry_version,
        )
        with refusals.unavailable(self._counts.of(key.tenant)):
            outcome = await self._store.put(key, value, entry_nodes(key), dependencies, conditions)
        match outcome:
            case Stored(version):
                self.recent.note(key)
                return version
            case Changed(resource):
                raise refusals.resource_changed(resource)
            case Mismatched(version):
                raise refusals.version_mismatch(version, entry_version)
            case NotYet(resource):
                raise refusals.not_yet(resource, observed.versions)

    async def resource_versions(self, tenant: str, names: Sequence[str]) -> Observation:
        """Returns the current versions of resources, in the order of their names.

        Raises:
            ServiceError: CACHE_STORE_UNAVAILABLE.
        """
        with refusals.unavailable(self._counts.of(tenant)):
            found = await self._store.versions(tenant, [_dependency(name) for name in names])
        return Observation(tuple(map(ResourceVersion, names, found.versions)), found.position)

    async def invalidate(self, tenant: str, change: Change) -> int:
        """Makes entries unreachable, and returns the position of the change.

        Raises:
            ServiceError: CACHE_STORE_UNAVAILABLE.
        """
        with refusals.unavailable(self._counts.of(tenant)):
            if change.key is not None:
                return await self._store.drop(change.key, [key_node(change.key)])
            return await self._store.advance(tenant, invalidated_nodes(change), change)

    async def watch(self, tenant: str, after: int | None) -> AsyncGenerator[LoggedChange]:
        """Yields changes; see `CacheStore.watch`.

        Raises:
            ServiceError: LIMIT_REACHED if too many watches are open, or CACHE_STORE_UNAVAILABLE.
        """
        if self._watches.total() >= self.limits.watches_max:
            raise refusals.too_many_watches("this server", self.limits.watches_max)
        if self._watches[tenant] >= self.limits.watches_per_tenant_max:
            raise refusals.too_many_watches("this tenant", self.limits.watches_per_tenant_max)
        self._watches[tenant] += 1
        changes = self._store.watch(tenant, after)
        try:
            with refusals.unavailable(self._counts.of(tenant)):
                async for change in changes:
                    yield change
        finally:
            self._watches[tenant] -= 1
            self._watches += Counter()  # removes tenants without a watch
            await changes.aclose()

    async def stats(self, tenant: str) -> CacheStats:
        """Returns the statistics of a tenant; without those of the store if it is not available."""
        try:
            return self._counts.of(tenant).stats(await self._store.size(tenant), available=True)
        except StoreUnavailableError:
            return self._counts.of(tenant).stats(Size(0, 0, 0), available=False)


async def _guarded(work: Coroutine[object, object, None]) -> None:
    """Runs work of the group. A defect in it must not end the group, and with it the service."""
    try:
        await work
    except Exception as defect:  # noqa: BLE001
        report_defect(log, "work of the tool cache", defect)


def _dependency(name: str) -> Dependency:
    return Dependency(name, tuple(read_nodes(name)))


def _size(result_json: str, content: str) -> int:
    return len(result_json.encode(errors="replace")) + len(content.encode(errors="replace"))
