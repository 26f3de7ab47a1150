"""Reads, writes, puts and invalidations of a cache store in any order, compared with the model.

Every value that a store serves must be one that the model allows. A store that has lost nothing
must also serve every value that the model knows to be fresh.
"""

from __future__ import annotations

import asyncio
import itertools
from abc import abstractmethod
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from precall_service.cache.base import (
    Change,
    Changed,
    ChangeKind,
    Conditions,
    Lookup,
    Mismatched,
    NotYet,
    Origin,
    ResourceVersion,
    Stored,
    Value,
)
from precall_service.cache.keys import entry_nodes, invalidated_nodes, key_node
from precall_service.domain.resources import read_nodes, write_nodes
from tests.support import cache_model as model
from tests.support.cache_acts import (
    KEYS,
    NAMES,
    READS,
    TENANT,
    WHICH,
    Announced,
    Reading,
    Seen,
    dependency,
    store_key,
)
from tests.support.cache_model import Key
from tests.support.cache_stores import Stores

T = TypeVar("T")


def since_snapshot(run: Reading) -> Conditions:
    """A value is stored only if nothing that it depends on has changed since it was begun."""
    return Conditions(snapshot=run.snapshot, nodes=(key_node(store_key(run.key)),))


class CacheMachine(RuleBasedStateMachine):
    """Compares stores with the model. Subclasses say which, and whether they lose anything."""

    roomy: bool
    """Whether the stores have room for everything, so that nothing fresh may be missed."""

    @abstractmethod
    def make(self) -> Stores:
        """The stores of one example."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.stores = self.make()
        self.model = model.CacheModel()
        self.seen = Seen()
        self.running: list[Reading] = []
        self.observed: list[Reading] = []
        self.announced: list[Announced] = []
        self.lost_at = 0
        self.numbers = itertools.count(1)
        self.run(self.stores.open())

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    def certain(self, moment: int) -> bool:
        """Whether nothing that is newer than this moment can have been lost."""
        return self.roomy and moment > self.lost_at

    # Reads

    @rule(key=KEYS, reads=READS, which=WHICH)
    def look_up(self, key: Key, reads: tuple[str, ...], which: int) -> None:
        """Looks an entry up; if there is none, a run may begin."""
        self._look_up(key, reads, which)

    @precondition(lambda self: self.model.latest)
    @rule(chosen=WHICH, which=WHICH, more=READS)
    def look_up_what_was_stored(self, chosen: int, which: int, more: tuple[str, ...]) -> None:
        stored = list(self.model.latest.values())
        one = stored[-1 - chosen % len(stored)]
        self._look_up(one.key, more if chosen % 2 else (), which)

    def _look_up(self, key: Key, reads: tuple[str, ...], which: int) -> None:
        nodes = [
            *entry_nodes(store_key(key)),
            *(node for name in reads for node in read_nodes(name)),
        ]
        expected = self.model.usable(key, self.stores.now(), reads)
        lookup = self.run(self.stores.pick(which).look_up(store_key(key), nodes))
        self._check(lookup, key, reads, expected)
        self._position(key.tenant, lookup.snapshot, new=False)
        self.running.append(Reading(key, reads, self.model.tick(), lookup.snapshot))

    def _check(
        self,
        lookup: Lookup,
        key: Key,
        reads: tuple[str, ...],
        expected: model.Stored | None,
    ) -> None:
        assert lookup.changed_at <= lookup.snapshot
        entry, now = lookup.entry, self.stores.now()
        if entry is None:
            if expected is not None and expected.expires_at - now > self.stores.slack_s:
                assert not self.certain(expected.stored), "what is fresh was not served"
            if lookup.stale:
                latest = self.model.latest[key]
                assert not self.certain(latest.stored) or self.model.changed_since(
                    latest.snapshot, latest.key, (*latest.reads, *reads)
                )
            return
        assert not lookup.stale
        assert expected is not None, "a value that is not usable was served"
        assert entry.value.result_json == expected.value, "another value was served"
        assert entry.entry_version == expected.entry_version
        assert [seen.resource for seen in entry.resources] == list(expected.reads)
        assert entry.age_s >= 0
        assert 0 < entry.expires_in_s <= entry.value.ttl_s

    @precondition(lambda self: self.running)
    @rule(chosen=WHICH, which=WHICH, brief=st.booleans())
    def end_run(self, chosen: int, which: int, brief: bool) -> None:
        """Stores the result of a run that began some time ago."""
        run = self.running.pop(chosen % len(self.running))
        stale = self.model.changed_since(run.moment, run.key, run.reads)
        outcome = self._put(run, which, brief, since_snapshot(run))
        if isinstance(outcome, Stored):
            assert not stale, "a read that overlapped a write was stored"
        else:
            assert isinstance(outcome, Changed)
            assert stale or not self.certain(run.moment), "a fresh result was refused"

    def _put(
        self, run: Reading, which: int, brief: bool, conditions: Conditions
    ) -> Stored | Changed | Mismatched | NotYet:
        key, now = run.key, self.stores.now
        before = self.model.usable(key, now())
        value = Value(
            result_json=f'"{next(self.numbers)}"',
            content="",
            execution_id="",
            origin=Origin.COMMITTED,
            cost_s=1.0,
            ttl_s=self.stores.short_s if brief else 600.0,
        )
        dependencies = [dependency(name) for name in run.reads]
        outcome = self.run(
            self.stores.pick(which).put(
                store_key(run.key), value, entry_nodes(store_key(run.key)), dependencies, conditions
            )
        )
        if isinstance(outcome, Stored):
            version = outcome.entry_version
            assert version > self.seen.entry_version.get(key, 0), "an entry's version did not grow"
            if before and self.certain(before.stored) and self._lives(before):
                assert version == before.entry_version + 1
            self.seen.entry_version[key] = version
            self.model.store(
                key,
                value.result_json,
                run.reads,
                snapshot=self.model.moment if conditions.snapshot is None else run.moment,
                expires_at=now() + value.ttl_s,
                entry_version=version,
            )
        return outcome

    def _lives(self, stored: model.Stored) -> bool:
        """Whether an entry has certainly not expired."""
        return stored.expires_at - self.stores.now() > self.stores.slack_s

    # Clients

    @rule(key=KEYS, reads=READS, which=WHICH)
    def observe(self, key: Key, reads: tuple[str, ...], which: int) -> None:
        """A client reads the versions of resources, and computes from now on."""
        dependencies = [dependency(name) for name in reads]
        found = self.run(self.stores.pick(which).versions(key.tenant, dependencies))
        self._position(key.tenant, found.position, new=False)
        seen = tuple(map(ResourceVersion, reads, found.versions))
        self.observed.append(Reading(key, reads, self.model.tick(), found.position, seen))

    @precondition(lambda self: self.observed)
    @rule(chosen=WHICH, which=WHICH)
    def observe_again(self, chosen: int, which: int) -> None:
        """The version of a resource has changed if and only if the resource was written."""
        client = self.observed[chosen % len(self.observed)]
        found = self.run(
            self.stores.pick(which).versions(client.key.tenant, list(map(dependency, client.reads)))
        )
        for seen, version in zip(client.versions, found.versions, strict=True):
            if self.model.written_since(client.moment, client.key.tenant, seen.resource):
                assert version > seen.version, "a version did not grow after a write"
            elif self.certain(client.moment):
                assert version == seen.version, "a version changed without a write"
            assert version >= seen.version

    @precondition(lambda self: self.observed)
    @rule(
        chosen=WHICH,
        which=WHICH,
        brief=st.booleans(),
        expect=st.sampled_from(["any", "none", "right", "wrong"]),
        told=st.booleans(),
    )
    def client_put(self, chosen: int, which: int, brief: bool, expect: str, told: bool) -> None:
        """A client stores what it has computed, and may tell the position from which it did."""
        client = self.observed[chosen % len(self.observed)]
        moved = any(
            self.model.written_since(client.moment, client.key.tenant, name)
            for name in client.reads
        )
        if told:
            moved = self.model.changed_since(client.moment, client.key, client.reads)
        usable = self.model.usable(client.key, self.stores.now())
        actual = 0 if usable is None else usable.entry_version
        expected = {"any": None, "none": 0, "right": actual, "wrong": actual + 1}[expect]
        conditions = since_snapshot(client) if told else Conditions()
        outcome = self._put(
            client,
            which,
            brief,
            replace(conditions, observed=client.versions, entry_version=expected),
        )
        certain = usable is None or (self.certain(usable.stored) and self._lives(usable))
        match outcome:
            case Stored():
                assert not moved, "stored although something has changed"
                if certain and expected is not None:
                    assert expected == actual
            case Mismatched(version):
                assert not moved
                assert version in (0, actual)
                if certain:
                    assert version == actual != expected
            case Changed(resource):
                assert resource in client.reads or (told and not resource)
                assert moved or not self.certain(client.moment)
            case NotYet():
                raise AssertionError("a position that was given out is not known")

    @rule(key=KEYS, name=NAMES, which=WHICH)
    def put_from_the_future(self, key: Key, name: str, which: int) -> None:
        run = Reading(key, (name,), self.model.tick(), 0)
        found = self.run(self.stores.pick(which).versions(key.tenant, [dependency(name)]))
        future = found.position + 10**15
        conditions = Conditions(observed=(ResourceVersion(name, future),))
        assert self._put(run, which, False, conditions) == NotYet(name)

    # Writes

    @rule(tenant=TENANT, name=NAMES, which=WHICH)
    def write(self, tenant: str, name: str, which: int) -> None:
        self._advance(tenant, Change(kind=ChangeKind.RESOURCE, names=(name,)), which)
        self.model.happened(model.Written(tenant, name))

    @rule(tenant=TENANT, name=NAMES, which=WHICH)
    def begin_write(self, tenant: str, name: str, which: int) -> None:
        write_id = f"write-{next(self.numbers)}"
        self._announce(Announced(tenant, name, write_id), which, within_s=1e6)
        self.announced.append(Announced(tenant, name, write_id))

    @precondition(lambda self: self.announced)
    @rule(chosen=WHICH, which=WHICH)
    def end_write(self, chosen: int, which: int) -> None:
        write = self.announced[chosen % len(self.announced)]
        if chosen % 4:  # the end of a write may be told twice
            self.announced.remove(write)
        change = Change(kind=ChangeKind.RESOURCE, names=(write.name,))
        self._advance(write.tenant, change, which, settles=write.write_id)
        self.model.happened(model.Written(write.tenant, write.name))

    @precondition(lambda self: self.stores.settles_alone)
    @rule(tenant=TENANT, name=NAMES, which=WHICH, key=KEYS)
    def die_while_writing(self, tenant: str, name: str, which: int, key: Key) -> None:
        """A server dies while a write is under way; the results read meanwhile are stale later."""
        write = Announced(tenant, name, f"write-{next(self.numbers)}")
        self._announce(write, which, within_s=30.0)
        meanwhile = Reading(key, (name,), self.model.tick(), 0)
        lookup = self.run(
            self.stores.pick(which).look_up(store_key(key), entry_nodes(store_key(key)))
        )
        meanwhile.snapshot = lookup.snapshot
        self.run(self.stores.advance(30.0))
        self.model.happened(model.Written(tenant, name))
        self.running.append(meanwhile)

    def _announce(self, write: Announced, which: int, within_s: float) -> None:
        change = Change(kind=ChangeKind.RESOURCE, names=(write.name,))
        self.run(
            self.stores.pick(which).announce(
                write.tenant, write.write_id, write_nodes(write.name), change, within_s
            )
        )
        self.model.happened(model.Written(write.tenant, write.name))

    def _advance(self, tenant: str, change: Change, which: int, *, settles: str = "") -> None:
        nodes = invalidated_nodes(change)
        store = self.stores.pick(which)
        position = self.run(store.advance(tenant, nodes, change, settles=settles))
        self._position(tenant, position, new=True)

    def _position(self, tenant: str, position: int, *, new: bool) -> None:
        highest = self.seen.position.get(tenant, 0)
        assert position > highest if new else position >= highest, "a position did not grow"
        self.seen.position[tenant] = position

    # Invalidations

    @rule(key=KEYS, kind=st.sampled_from(ChangeKind), which=WHICH)
    def invalidate(self, key: Key, kind: ChangeKind, which: int) -> None:
        tenant, tool, version = key.tenant, key.tool, key.version
        match kind:
            case ChangeKind.TOOL:
                change = Change(kind=kind, names=(tool,))
                event: model.Event = model.ToolForgotten(tenant, tool, None)
            case ChangeKind.TOOL_VERSION:
                change = Change(kind=kind, names=(tool, version))
                event = model.ToolForgotten(tenant, tool, version)
            case ChangeKind.CONVERSATION:
                change = Change(kind=kind, names=("conv-1",))
                event = model.Written(tenant, "conversation:conv-1")
            case ChangeKind.ALL:
                change, event = Change(kind=kind), model.AllForgotten(tenant)
            case _:
                self._drop(key, which)
                return
        self._advance(tenant, change, which)
        self.model.happened(event)

    def _drop(self, key: Key, which: int) -> None:
        position = self.run(
            self.stores.pick(which).drop(store_key(key), [key_node(store_key(key))])
        )
        self._position(key.tenant, position, new=True)
        self.model.happened(model.KeyForgotten(key))

    # Time and loss

    @rule(some=st.booleans())
    def time_passes(self, some: bool) -> None:
        self.run(self.stores.advance(self.stores.short_s * (0.5 if some else 1.0)))

    def lose(self) -> None:
        """Loses everything. Results from before must not be stored any more."""
        self.run(self.stores.lose_everything())
        for tenant in ("ann", "bob"):
            self.model.happened(model.AllForgotten(tenant))
        self.lost_at = self.model.moment
        self.announced.clear()

    def teardown(self) -> None:
        self.run(self.stores.close())
        self.runner.close()
