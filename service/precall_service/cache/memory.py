"""The cache store in the service's own memory.

Concurrency: one event loop. No method waits, except that `watch` waits for changes; so each method
    is atomic.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field
from itertools import takewhile

from precall_service.cache.base import (
    CacheKey,
    Change,
    Changed,
    ChangeKind,
    Conditions,
    Dependency,
    Entry,
    LoggedChange,
    Lookup,
    Mismatched,
    NotYet,
    ResourceVersion,
    Size,
    Stored,
    Value,
    Versions,
)
from precall_service.cache.keys import logged
from precall_service.cache.records import RecordLogs
from precall_service.cache.table import EntryTable, Rows
from precall_service.cache.versions import NodeVersions
from precall_service.domain.clock import Clock

TENANTS_MAX = 1024
"""Above this number, a tenant is forgotten when a new one is added."""
_FORGET_TRIES = 16


@dataclass(slots=True)
class _Tenant:
    versions: NodeVersions
    last: int
    """The last position that was given out."""
    log: deque[LoggedChange]
    lost: int
    """The last position that is no longer in the log."""
    rows: Rows = field(default_factory=Rows)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    watchers: int = 0


class MemoryStore:
    """See `CacheStore`. Everything is lost when the process ends."""

    def __init__(
        self,
        clock: Clock,
        *,
        bytes_max: int,
        nodes_max: int,
        changes_max: int,
        wall_s: Callable[[], float] = time.time,
        chance: random.Random | None = None,
    ) -> None:
        """Makes an empty store.

        Args:
            clock: For the age and the expiry of entries.
            bytes_max: The most bytes of the entries of all tenants together.
            nodes_max: The number of nodes of one tenant whose versions are kept.
            changes_max: The number of changes of one tenant that are kept in its log.
            wall_s: Returns the seconds since 1970. Positions start there, so that they are new
                after a restart.
            chance: Chooses the sample of entries from which one is dropped.
        """
        self._clock = clock
        self._nodes_max = nodes_max
        self._changes_max = changes_max
        self._wall_s = wall_s
        self._table = EntryTable(bytes_max, chance or random.Random())  # noqa: S311 - no secret
        self._tenants: OrderedDict[str, _Tenant] = OrderedDict()
        self._records = RecordLogs()
        self._last = 0

    def concerns(self, tenant: str) -> bool:
        """See `CacheStore`. The first position of a tenant is above all that were given out."""
        return tenant in self._tenants

    async def look_up(self, key: CacheKey, nodes: Sequence[str]) -> Lookup:
        """See `CacheStore`."""
        tenant = self._tenant(key.tenant)
        changed_at = tenant.versions.of(nodes)
        found = self._found(tenant, key.digest)
        row = self._usable(tenant, key.digest, found)
        entry = None
        if row is not None and changed_at <= self._table.snapshot(row):
            self._table.use(row)
            entry = self._table.read(row, self._clock.now())
        return Lookup(
            entry=entry,
            stale=found is not None and entry is None,
            snapshot=tenant.last,
            changed_at=changed_at,
        )

    async def put(
        self,
        key: CacheKey,
        value: Value,
        nodes: Sequence[str],
        dependencies: Sequence[Dependency],
        conditions: Conditions,
    ) -> Stored | Changed | Mismatched | NotYet:
        """See `CacheStore`."""
        tenant = self._tenant(key.tenant)
        versions = {each.resource: tenant.versions.of(each.nodes) for each in dependencies}
        refused = self._refusal(tenant, key.digest, nodes, versions, conditions)
        if refused is not None:
            return refused
        row = self._found(tenant, key.digest)
        position = self._next(tenant)
        entry = Entry(
            value=value,
            entry_version=position if row is None else self._table.entry_version(row) + 1,
            resources=tuple(ResourceVersion(*each) for each in versions.items()),
            age_s=0.0,
            expires_in_s=value.ttl_s,
        )
        self._table.add(
            tenant.rows,
            key.digest,
            entry,
            nodes=tuple(nodes) + tuple(node for each in dependencies for node in each.nodes),
            snapshot=position if conditions.snapshot is None else conditions.snapshot,
            now=self._clock.now(),
        )
        stored = Change(kind=ChangeKind.STORED, key=logged(key), entry_version=entry.entry_version)
        self._log(tenant, position, stored)
        return Stored(entry.entry_version)

    async def versions(self, tenant: str, dependencies: Sequence[Dependency]) -> Versions:
        """See `CacheStore`."""
        owner = self._tenant(tenant)
        return Versions(owner.last, [owner.versions.of(each.nodes) for each in dependencies])

    async def advance(
        self, tenant: str, nodes: Sequence[str], change: Change | None, *, settles: str = ""
    ) -> int:
        """See `CacheStore`."""
        owner = self._tenant(tenant)
        position = self._next(owner)
        owner.versions.advance(nodes, position)
        if change is not None:
            self._log(owner, position, change)
        return position

    async def announce(
        self, tenant: str, write_id: str, nodes: Sequence[str], change: Change, within_s: float
    ) -> None:
        """See `CacheStore`. If the server dies, this store is lost, too: no write gets overdue."""
        owner = self._tenant(tenant)
        owner.versions.advance(nodes, self._next(owner))

    async def drop(self, key: CacheKey, nodes: Sequence[str] = ()) -> int:
        """See `CacheStore`."""
        tenant = self._tenant(key.tenant)
        self._table.remove(tenant.rows, key.digest)
        position = self._next(tenant)
        tenant.versions.advance(nodes, position)
        self._log(tenant, position, Change(kind=ChangeKind.KEY, key=logged(key)))
        return position

    async def watch(self, tenant: str, after: int | None) -> AsyncGenerator[LoggedChange]:
        """See `CacheStore`."""
        owner = self._tenant(tenant)
        owner.watchers += 1
        try:
            position = owner.last if after is None else after
            while True:
                if position < owner.lost or position > owner.last:
                    position = owner.lost if position < owner.lost else owner.last
                    yield LoggedChange(position, self._wall_s(), None)
                for change in _after(owner.log, position):
                    position = change.position
                    yield change
                if not owner.log or owner.log[-1].position <= position:
                    owner.changed.clear()
                    await owner.changed.wait()
        finally:
            owner.watchers -= 1

    async def size(self, tenant: str) -> Size:
        """See `CacheStore`."""
        rows = self._tenant(tenant).rows
        return Size(len(rows.by_digest), rows.bytes, rows.evictions)

    async def remember(self, tenant: str, record: bytes) -> None:
        """See `CacheStore`."""
        self._records.add(tenant, record)

    async def recall(self, tenant: str, after: int) -> list[tuple[int, bytes]]:
        """See `CacheStore`."""
        return self._records.page(tenant, after)

    async def close(self) -> None:
        """See `CacheStore`."""

    def _found(self, tenant: _Tenant, digest: bytes) -> int | None:
        """Returns the row of an entry that has not expired."""
        row = tenant.rows.by_digest.get(digest)
        if row is not None and self._table.expired(row, self._clock.now()):
            self._table.remove(tenant.rows, digest)
            return None
        return row

    def _usable(self, tenant: _Tenant, digest: bytes, row: int | None) -> int | None:
        """Returns the row that was found if its entry is fresh; removes the entry if it is not."""
        if row is not None and (
            tenant.versions.of(self._table.nodes(row)) > self._table.snapshot(row)
        ):
            self._table.remove(tenant.rows, digest)
            return None
        return row

    def _refusal(
        self,
        tenant: _Tenant,
        digest: bytes,
        nodes: Sequence[str],
        versions: dict[str, int],
        conditions: Conditions,
    ) -> Changed | Mismatched | NotYet | None:
        """Returns why a value may not be stored; None if it may be stored."""
        for seen in conditions.observed:
            if seen.version > tenant.last:
                return NotYet(seen.resource)
            if seen.version != versions[seen.resource]:
                return Changed(seen.resource)
        if conditions.snapshot is not None:
            if conditions.snapshot > tenant.last:
                return NotYet("")
            if tenant.versions.of((*nodes, *conditions.nodes)) > conditions.snapshot:
                return Changed("")
            for resource, version in versions.items():
                if version > conditions.snapshot:
                    return Changed(resource)
        if conditions.entry_version is not None:
            row = self._usable(tenant, digest, self._found(tenant, digest))
            now = 0 if row is None else self._table.entry_version(row)
            if now != conditions.entry_version:
                return Mismatched(now)
        return None

    def _tenant(self, name: str) -> _Tenant:
        tenant = self._tenants.get(name)
        if tenant is None:
            tenant = self._new_tenant()
            self._tenants[name] = tenant
        self._tenants.move_to_end(name)
        return tenant

    def _new_tenant(self) -> _Tenant:
        if len(self._tenants) >= TENANTS_MAX:
            self._forget_one()
        self._last = start = max(self._last + 1, int(self._wall_s() * 1e6))
        return _Tenant(
            versions=NodeVersions(self._nodes_max, start),
            last=start,
            log=deque(maxlen=self._changes_max),
            lost=start,
        )

    def _forget_one(self) -> None:
        """Forgets the tenant with the fewest entries, of those that were used longest ago.

        If it comes back, its versions start above all that were given out, so nothing old counts
        as fresh. A tenant with watches is kept.
        """
        oldest = (name for _, name in zip(range(_FORGET_TRIES), self._tenants, strict=False))
        found = [name for name in oldest if not self._tenants[name].watchers]
        if not found:
            return
        name = min(found, key=lambda name: len(self._tenants[name].rows.by_digest))
        rows = self._tenants.pop(name).rows
        for digest in tuple(rows.by_digest):
            self._table.remove(rows, digest)

    def _next(self, tenant: _Tenant) -> int:
        """Returns the next position. Positions are microseconds since 1970, or just above."""
        self._last = tenant.last = max(self._last + 1, int(self._wall_s() * 1e6))
        return tenant.last

    def _log(self, tenant: _Tenant, position: int, change: Change) -> None:
        if len(tenant.log) == self._changes_max:
            tenant.lost = tenant.log[0].position
        tenant.log.append(LoggedChange(position, self._wall_s(), change))
        tenant.changed.set()


def _after(log: deque[LoggedChange], position: int) -> list[LoggedChange]:
    """Returns the changes after a position, without looking at those before it."""
    return list(takewhile(lambda each: each.position > position, reversed(log)))[::-1]
