"""The contract of every cache store, over the service's own memory and over a real Redis."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace

import pytest

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
    ResourceVersion,
    Stored,
    Value,
    Versions,
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


@pytest.fixture(params=["memory", "redis"])
async def opened(request: pytest.FixtureRequest) -> AsyncGenerator[Opened]:
    if request.param == "memory":
        async with memory_store() as opened:
            yield opened
    else:
        async with redis_store(request.getfixturevalue("redis_server")) as opened:
            yield opened


@pytest.fixture
def store(opened: Opened) -> CacheStore:
    return opened.store


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


class TestEntries:
    async def test_nothing_is_found_where_nothing_was_stored(self, store: CacheStore) -> None:
        found = await look(store)
        assert found.entry is None
        assert not found.stale

    async def test_an_entry_is_found_as_it_was_stored(self, store: CacheStore) -> None:
        seen = await version(store)
        stored_as = await stored(store, what=value('{"x":1}', content="x is 1"))
        found = await look(store)
        assert found.entry is not None
        assert found.entry.value == value('{"x":1}', content="x is 1")
        assert found.entry.entry_version == stored_as
        assert found.entry.resources == (ResourceVersion("file:/a", seen),)
        assert not found.stale

    async def test_an_entry_may_depend_on_nothing_but_its_nodes(self, store: CacheStore) -> None:
        assert isinstance(await put(store, reads=()), Stored)
        entry = (await look(store)).entry
        assert entry is not None
        assert entry.resources == ()

    async def test_an_entry_ages_and_expires(self, opened: Opened) -> None:
        await stored(opened.store)
        opened.pass_time(TTL_S - 20.0)
        entry = (await look(opened.store)).entry
        assert entry is not None
        assert entry.age_s == pytest.approx(TTL_S - 20.0, abs=10.0)
        assert entry.expires_in_s == pytest.approx(20.0, abs=10.0)
        opened.pass_time(20.0)
        found = await look(opened.store)
        assert found.entry is None
        assert not found.stale

    async def test_an_entry_replaces_the_one_before(self, store: CacheStore) -> None:
        first = await stored(store, what=value('"1"'))
        assert await stored(store, what=value('"2"')) == first + 1
        assert await result(store) == '"2"'

    @pytest.mark.parametrize(
        "text",
        [
            pytest.param("", id="empty"),
            pytest.param('"\u0416\U0001f600\u2028"', id="unicode"),
            pytest.param('"a\nb\r\n\n\0\x1f\x7f"', id="control"),
            pytest.param('"' + "x" * (1 << 20) + '"', id="large"),
            pytest.param("$3\r\nabc\r\n", id="as Redis speaks"),
        ],
    )
    async def test_any_text_comes_back_as_it_was(self, store: CacheStore, text: str) -> None:
        await stored(store, what=value(text, content=text))
        entry = (await look(store)).entry
        assert entry is not None
        assert entry.value == value(text, content=text)

    @pytest.mark.parametrize("cost_s", [0.0, 0.1, 86_400.0])
    async def test_the_cost_is_kept_as_it_was_given(self, store: CacheStore, cost_s: float) -> None:
        await stored(store, what=dataclasses.replace(value(), cost_s=cost_s))
        entry = (await look(store)).entry
        assert entry is not None
        assert entry.value.cost_s == cost_s

    async def test_odd_keys_are_kept_apart_and_told(self, store: CacheStore) -> None:
        odd = key('{"a":"\u2028 \u0416"}', version='1\n"\0}{\x7f', conversation="conv-\u0416")
        async with aclosing(store.watch(TENANT, (await look(store)).snapshot)) as changes:
            await stored(store, odd, value('"odd"'))
            await stored(store, key('{"a":1}'), value('"plain"'))
            told = await anext(changes)
        assert told.change is not None
        assert told.change.key == odd
        assert await result(store, odd) == '"odd"'
        assert await result(store, key('{"a":1}')) == '"plain"'

    async def test_a_result_that_took_long_to_compute_is_stored_if_nothing_changed(
        self, store: CacheStore
    ) -> None:
        snapshot = (await look(store)).snapshot
        await store.advance(TENANT, ["=file:/else"], resource("file:/else"))
        assert isinstance(await put(store, conditions=Conditions(snapshot=snapshot)), Stored)
        assert await result(store) == '"r"'

    async def test_drop_removes_an_entry(self, store: CacheStore) -> None:
        first = await stored(store)
        position = await store.drop(KEY)
        assert position > first
        found = await look(store)
        assert found.entry is None
        assert not found.stale
        assert await store.drop(KEY) > position

    async def test_entry_versions_never_repeat(self, opened: Opened) -> None:
        store = opened.store
        seen = [await stored(store), await stored(store)]
        await store.drop(KEY)
        seen.append(await stored(store))
        opened.pass_time(2 * TTL_S)
        seen.append(await stored(store))
        await store.advance(TENANT, READ.nodes, WRITTEN)
        seen.append(await stored(store))
        assert seen == sorted(set(seen))

    async def test_tenants_share_nothing(self, store: CacheStore) -> None:
        await stored(store)
        other = replace(KEY, tenant="bob")
        assert await result(store, other) is None
        assert (await store.size("bob")).entries == 0
        await stored(store, other, value('"bob"'))
        await store.advance("bob", NODES, Change(kind=ChangeKind.ALL))
        assert await result(store) == '"r"'
        assert await result(store, other) is None


class TestFreshness:
    @pytest.mark.parametrize("node", [*NODES, *READ.nodes])
    async def test_an_entry_is_stale_once_a_node_of_it_has_changed(
        self, store: CacheStore, node: str
    ) -> None:
        await stored(store)
        await store.advance(TENANT, [node], WRITTEN)
        found = await look(store)
        assert found.entry is None
        assert found.stale

    async def test_an_entry_stays_fresh_while_other_nodes_change(self, store: CacheStore) -> None:
        await stored(store)
        await store.advance(TENANT, ["=file:/b", "<file:", "t:loo", "t:look2"], WRITTEN)
        assert await result(store) == '"r"'

    async def test_nodes_that_are_asked_for_count_as_well(self, store: CacheStore) -> None:
        await stored(store)
        await store.advance(TENANT, ["=order:1"], resource("order:1"))
        found = await look(store, nodes=(*NODES, "=order:1"))
        assert found.entry is None
        assert found.stale

    async def test_an_entry_is_fresh_again_once_it_is_stored_anew(self, store: CacheStore) -> None:
        await stored(store)
        await store.advance(TENANT, READ.nodes, WRITTEN)
        await stored(store, what=value('"new"'))
        assert await result(store) == '"new"'

    async def test_a_lookup_tells_the_position_and_the_last_change(self, store: CacheStore) -> None:
        before = await look(store)
        assert before.changed_at <= before.snapshot
        position = await store.advance(TENANT, ["=order:1"], resource("order:1"))
        assert position > before.snapshot
        after = await look(store)
        assert after.snapshot >= position
        assert after.changed_at == before.changed_at
        assert (await look(store, nodes=("=order:1",))).changed_at == position

    async def test_what_is_forgotten_is_stale(self, store: CacheStore) -> None:
        snapshot = (await look(store)).snapshot
        await stored(store)
        await store.advance(TENANT, ["=file:/a"], WRITTEN)
        changed = await version(store)
        for number in range(2 * NODES_MAX):
            await store.advance(TENANT, [f"=order:{number}"], resource(f"order:{number}"))
        assert (await look(store)).stale
        assert await version(store) > changed, "a node that was forgotten has a later version"
        assert await version(store, OTHER) == await version(store)
        refused = await put(store, conditions=Conditions(snapshot=snapshot))
        assert isinstance(refused, Changed)
        await stored(store, what=value('"new"'))
        assert await result(store) == '"new"'

    async def test_many_nodes_change_at_once(self, store: CacheStore) -> None:
        nodes = tuple(f"=file:/{number}" for number in range(5000))
        whole = Dependency("file:/*", nodes)
        assert isinstance(await put(store, reads=(whole,)), Stored)
        assert (await look(store, nodes=(*NODES, *nodes))).entry is not None
        await store.advance(TENANT, nodes, WRITTEN)
        assert (await look(store)).stale
        assert (await look(store, nodes=nodes)).entry is None
        position = await store.advance(TENANT, ["=file:/7"], WRITTEN)
        assert await version(store, whole) == position


class TestConditions:
    async def test_a_snapshot_from_before_a_change_is_refused(self, store: CacheStore) -> None:
        snapshot = (await look(store)).snapshot
        await store.advance(TENANT, ["=file:/a"], WRITTEN)
        conditions = Conditions(snapshot=snapshot)
        assert await put(store, conditions=conditions) == Changed("file:/a")
        assert await result(store) is None
        await store.advance(TENANT, ["a:"], Change(kind=ChangeKind.ALL))
        assert await put(store, conditions=conditions, reads=()) == Changed("")

    async def test_an_entry_gets_the_snapshot_that_it_was_put_with(self, store: CacheStore) -> None:
        snapshot = (await look(store)).snapshot
        await store.advance(TENANT, ["=order:1"], resource("order:1"))
        assert isinstance(await put(store, conditions=Conditions(snapshot=snapshot)), Stored)
        assert (await look(store)).entry is not None
        assert (await look(store, nodes=("=order:1",))).stale

    async def test_observed_versions_must_be_those_of_now(self, store: CacheStore) -> None:
        versions = (await store.versions(TENANT, [READ, OTHER])).versions
        observed = tuple(map(ResourceVersion, ("file:/a", "file:/b"), versions))
        conditions = Conditions(observed=observed)
        both = (READ, OTHER)
        assert isinstance(await put(store, conditions=conditions, reads=both), Stored)
        await store.advance(TENANT, ["=file:/b"], resource("file:/b"))
        assert await put(store, conditions=conditions, reads=both) == Changed("file:/b")
        older = Conditions(observed=(ResourceVersion("file:/a", versions[0] - 1),))
        assert await put(store, conditions=older) == Changed("file:/a")

    async def test_further_nodes_must_not_have_changed_since_the_snapshot(
        self, store: CacheStore
    ) -> None:
        snapshot = (await look(store)).snapshot
        further = Conditions(snapshot=snapshot, nodes=("k:other", "k:this"))
        assert isinstance(await put(store, conditions=further), Stored)
        await store.drop(KEY, ["k:this"])
        assert await put(store, conditions=further) == Changed("")
        assert await result(store) is None

    async def test_no_entry_depends_on_further_nodes(self, store: CacheStore) -> None:
        further = Conditions(snapshot=(await look(store)).snapshot, nodes=("k:this",))
        await put(store, conditions=further)
        await store.advance(TENANT, ["k:this"], None)
        assert await result(store) is not None

    async def test_a_snapshot_that_was_never_given_out_is_refused(self, store: CacheStore) -> None:
        future = (await look(store)).snapshot + 1_000_000_000
        assert await put(store, conditions=Conditions(snapshot=future)) == NotYet("")
        assert await result(store) is None

    async def test_a_version_that_was_never_given_out_is_refused(self, store: CacheStore) -> None:
        future = (await look(store)).snapshot + 1_000_000_000
        observed = (ResourceVersion("file:/a", future),)
        assert await put(store, conditions=Conditions(observed=observed)) == NotYet("file:/a")
        assert await result(store) is None

    async def test_a_version_is_compared_and_set(self, store: CacheStore) -> None:
        none, wrong = Conditions(entry_version=0), Conditions(entry_version=7)
        assert await put(store, conditions=wrong) == Mismatched(0)
        first = await put(store, conditions=none)
        assert isinstance(first, Stored)
        now = first.entry_version
        assert await put(store, conditions=none) == Mismatched(now)
        assert await put(store, conditions=wrong) == Mismatched(now)
        assert await put(store, conditions=Conditions(entry_version=now)) == Stored(now + 1)
        assert await put(store, conditions=Conditions(entry_version=now)) == Mismatched(now + 1)

    async def test_an_entry_that_is_not_usable_has_no_version(self, opened: Opened) -> None:
        store = opened.store
        none = Conditions(entry_version=0)
        await stored(store)
        await store.advance(TENANT, READ.nodes, WRITTEN)
        assert isinstance(await put(store, conditions=none), Stored)
        opened.pass_time(2 * TTL_S)
        assert isinstance(await put(store, conditions=none), Stored)

    async def test_one_of_many_wins(self, store: CacheStore) -> None:
        none = Conditions(entry_version=0)
        outcomes = await asyncio.gather(*(put(store, conditions=none) for _ in range(64)))
        [won] = [each for each in outcomes if isinstance(each, Stored)]
        assert outcomes.count(Mismatched(won.entry_version)) == 63

    async def test_many_in_a_row_count_up_by_one(self, store: CacheStore) -> None:
        first = await stored(store)

        async def grow() -> int:
            """Puts until it wins; returns the version that it made."""
            while True:
                entry = (await look(store)).entry
                assert entry is not None
                now = Conditions(entry_version=entry.entry_version)
                if isinstance(outcome := await put(store, conditions=now), Stored):
                    return outcome.entry_version

        made = await asyncio.gather(*(grow() for _ in range(16)))
        assert sorted(made) == list(range(first + 1, first + 17))


class TestVersions:
    async def test_a_version_is_the_position_of_the_last_change(self, store: CacheStore) -> None:
        first = (await store.versions(TENANT, [READ, OTHER])).versions
        assert first[0] > 0
        position = await store.advance(TENANT, ["=file:/b"], resource("file:/b"))
        assert (await store.versions(TENANT, [READ, OTHER])).versions == [first[0], position]
        position = await store.advance(TENANT, ["*file:"], resource("file:*"))
        assert (await store.versions(TENANT, [OTHER, READ])).versions == [position, position]
        assert await store.versions(TENANT, []) == Versions(position, [])

    async def test_positions_grow_with_every_change(self, store: CacheStore) -> None:
        positions = [await store.advance(TENANT, ["x"], None)]
        positions.append(await stored(store))
        positions.append(await store.drop(KEY))
        positions += await asyncio.gather(
            *(store.advance(TENANT, ["x"], WRITTEN) for _ in range(64))
        )
        assert len(set(positions)) == len(positions)
        assert positions[:3] == sorted(positions[:3])
        assert (await look(store)).snapshot >= max(positions)


class TestAnnouncedWrites:
    async def test_a_write_makes_stale_what_was_read_before_it_begins_or_ends(
        self, store: CacheStore
    ) -> None:
        await stored(store)
        await store.announce(TENANT, "w", ["=file:/a"], WRITTEN, 60.0)
        assert (await look(store)).stale
        await stored(store, what=value('"while it runs"'))
        await store.advance(TENANT, ["=file:/a"], WRITTEN, settles="w")
        assert (await look(store)).stale

    async def test_a_settled_write_is_over(self, opened: Opened) -> None:
        store = opened.store
        await store.announce(TENANT, "w", ["=file:/a"], WRITTEN, 5.0)
        await store.advance(TENANT, ["=file:/a"], WRITTEN, settles="w")
        await stored(store)
        opened.pass_time(10.0)
        assert await result(store) == '"r"'

    async def test_only_the_end_of_a_write_is_logged(self, store: CacheStore) -> None:
        snapshot = (await look(store)).snapshot
        await store.announce(TENANT, "w", ["=file:/a"], WRITTEN, 60.0)
        position = await store.advance(TENANT, ["=file:/a"], WRITTEN, settles="w")
        async with aclosing(store.watch(TENANT, snapshot)) as changes:
            told = await anext(changes)
        assert (told.position, told.change) == (position, WRITTEN)


# The service's own memory ends with its server, so it has no overdue writes.
@pytest.mark.parametrize("opened", ["redis"], indirect=True)
class TestOverdueWrites:
    @pytest.mark.parametrize("asks", ["look_up", "put", "versions", "advance"])
    async def test_an_overdue_write_is_ended_by_whoever_comes_next(
        self, opened: Opened, asks: str
    ) -> None:
        store = opened.store
        await store.announce(TENANT, "w", ["=file:/a"], WRITTEN, 5.0)
        await stored(store, what=value('"while it ran"'))
        snapshot = (await look(store)).snapshot
        opened.pass_time(4.0)
        assert await result(store) == '"while it ran"'
        opened.pass_time(2.0)
        match asks:
            case "look_up":
                assert (await look(store)).stale
            case "put":
                late = await put(store, conditions=Conditions(snapshot=snapshot))
                assert late == Changed("file:/a")
            case "versions":
                assert await version(store) > snapshot
            case _:
                await store.advance(TENANT, ["x"], None)
        assert (await look(store)).stale
        async with aclosing(store.watch(TENANT, snapshot)) as changes:
            assert (await anext(changes)).change == WRITTEN
        await stored(store, what=value('"new"'))
        opened.pass_time(10.0)
        assert await result(store) == '"new"', "it is ended once"

    async def test_many_overdue_writes_are_ended(self, opened: Opened) -> None:
        store = opened.store
        reads = [Dependency(f"order:{number}", (f"=order:{number}",)) for number in range(100)]
        for number in range(100):
            nodes = [f"=order:{number}"]
            await store.announce(TENANT, f"w{number}", nodes, resource(f"order:{number}"), 5.0)
        keys = [key(f'{{"n":{number}}}') for number in range(100)]
        for each, read in zip(keys, reads, strict=True):
            await put(store, each, reads=(read,))
        opened.pass_time(6.0)
        assert [await result(store, each) for each in keys] == [None] * 100


class TestWatch:
    async def test_changes_are_told_in_order_from_a_position(self, store: CacheStore) -> None:
        start = (await look(store)).snapshot
        entry_version = await stored(store)
        dropped = await store.drop(KEY)
        written = await store.advance(TENANT, ["=file:/a"], WRITTEN)
        async with aclosing(store.watch(TENANT, start)) as changes:
            told = await take(changes, 3)
            assert [each.change for each in told] == [
                Change(kind=ChangeKind.STORED, key=KEY, entry_version=entry_version),
                Change(kind=ChangeKind.KEY, key=KEY),
                WRITTEN,
            ]
            assert [each.position for each in told[1:]] == [dropped, written]
            assert start < told[0].position < dropped
            assert told[0].time_s > 1_600_000_000
            later = asyncio.ensure_future(anext(changes))
            position = await store.advance(TENANT, ["x"], Change(kind=ChangeKind.ALL))
            assert (await later).position == position
        async with aclosing(store.watch(TENANT, dropped)) as changes:
            assert (await anext(changes)).position == written

    @pytest.mark.parametrize(
        "change",
        [
            Change(kind=ChangeKind.TOOL, names=("look",)),
            Change(kind=ChangeKind.TOOL_VERSION, names=("look", '1\n"\u0416')),
            Change(kind=ChangeKind.RESOURCE, names=("file:/\u0416/*",)),
            Change(kind=ChangeKind.CONVERSATION, names=("conv-1",)),
            Change(kind=ChangeKind.ALL),
        ],
        ids=lambda change: change.kind.value,
    )
    async def test_each_kind_of_change_is_told(self, store: CacheStore, change: Change) -> None:
        start = (await look(store)).snapshot
        await store.advance(TENANT, ["x"], change)
        async with aclosing(store.watch(TENANT, start)) as changes:
            assert (await anext(changes)).change == change

    async def test_without_a_position_only_what_happens_from_now_on_is_told(
        self, store: CacheStore
    ) -> None:
        await store.advance(TENANT, ["x"], WRITTEN)
        async with aclosing(store.watch(TENANT, None)) as changes:
            first = asyncio.ensure_future(anext(changes))
            # The watcher has begun once it has told a change: each round makes one.
            positions: list[int] = []
            while not first.done():
                positions.append(await store.advance(TENANT, ["x"], resource("file:/b")))
                await asyncio.wait([first], timeout=0.01)
            assert (await first).position in positions
            assert (await first).change == resource("file:/b")

    async def test_other_tenants_are_not_told(self, store: CacheStore) -> None:
        start = (await look(store)).snapshot
        await store.advance("bob", ["x"], resource("file:/b"))
        await store.advance(TENANT, ["x"], WRITTEN)
        async with aclosing(store.watch(TENANT, start)) as changes:
            assert (await anext(changes)).change == WRITTEN

    async def test_a_change_without_a_record_leaves_no_gap(self, store: CacheStore) -> None:
        start = (await look(store)).snapshot
        await store.advance(TENANT, ["x"], None)
        await store.announce(TENANT, "w", ["x"], WRITTEN, 60.0)
        await store.advance(TENANT, ["x"], WRITTEN)
        async with aclosing(store.watch(TENANT, start)) as changes:
            assert (await anext(changes)).change == WRITTEN

    async def test_a_gap_is_told_where_changes_are_no_longer_kept(self, store: CacheStore) -> None:
        start = (await look(store)).snapshot
        positions = [
            await store.advance(TENANT, ["x"], resource(f"order:{number}"))
            for number in range(2 * CHANGES_MAX)
        ]
        async with aclosing(store.watch(TENANT, start)) as changes:
            told = await take(changes, 1 + CHANGES_MAX)
        assert told[0].change is None
        assert told[0].position == positions[-CHANGES_MAX - 1]
        assert [each.position for each in told[1:]] == positions[-CHANGES_MAX:]
        async with aclosing(store.watch(TENANT, told[0].position)) as changes:
            assert (await anext(changes)).position == positions[-CHANGES_MAX]

    @pytest.mark.parametrize("after", [0, 5])
    async def test_a_position_before_everything_is_a_gap(
        self, store: CacheStore, after: int
    ) -> None:
        position = await store.advance(TENANT, ["x"], WRITTEN)
        async with aclosing(store.watch(TENANT, after)) as changes:
            gap, change = await take(changes, 2)
        assert gap.change is None
        assert change.position == position

    async def test_a_position_that_was_never_given_out_is_a_gap(self, store: CacheStore) -> None:
        await store.advance(TENANT, ["x"], WRITTEN)
        future = (await look(store)).snapshot + 1_000_000_000_000
        async with aclosing(store.watch(TENANT, future)) as changes:
            gap = await anext(changes)
            assert gap.change is None
            assert gap.position < future
            position = await store.advance(TENANT, ["x"], WRITTEN)
            assert (await anext(changes)).position == position

    async def test_a_cancelled_watcher_can_be_followed_by_another(self, store: CacheStore) -> None:
        start = (await look(store)).snapshot
        for _ in range(3):
            changes = store.watch(TENANT, start)
            waiting = asyncio.ensure_future(anext(changes))
            await asyncio.wait([waiting], timeout=0.02)
            waiting.cancel()
            await asyncio.wait([waiting])
            assert waiting.cancelled()
            await changes.aclose()
        position = await store.advance(TENANT, ["x"], WRITTEN)
        async with aclosing(store.watch(TENANT, start)) as changes:
            assert (await anext(changes)).position == position

    async def test_many_watchers_are_told_the_same(self, store: CacheStore) -> None:
        start = (await look(store)).snapshot

        async def told() -> list[int]:
            async with aclosing(store.watch(TENANT, start)) as changes:
                return [each.position for each in await take(changes, 3)]

        watchers = [asyncio.ensure_future(told()) for _ in range(8)]
        positions = [await store.advance(TENANT, ["x"], WRITTEN) for _ in range(3)]
        assert await asyncio.gather(*watchers) == [positions] * 8


class TestSize:
    async def test_counts_entries_and_their_bytes(self, store: CacheStore) -> None:
        empty = await store.size(TENANT)
        assert (empty.entries, empty.bytes, empty.evictions) == (0, 0, 0)
        await stored(store, what=value("x" * 1000))
        one = await store.size(TENANT)
        assert one.entries == 1
        assert one.bytes >= 1000
        await stored(store, what=value("x" * 3000))
        replaced = await store.size(TENANT)
        assert replaced.entries == 1
        assert replaced.bytes == one.bytes + 2000
        await stored(store, key('{"n":1}'), value("x" * 1000))
        assert (await store.size(TENANT)).entries == 2
        await store.drop(KEY)
        assert (await store.size(TENANT)).entries == 1
        await store.drop(key('{"n":1}'))
        assert await store.size(TENANT) == empty


class TestConcurrency:
    async def test_no_answer_goes_to_another_caller(self, store: CacheStore) -> None:
        keys = [key(f'{{"n":{number}}}') for number in range(200)]
        await asyncio.gather(
            *(stored(store, each, value(each.arguments_json * 50)) for each in keys)
        )
        results = await asyncio.gather(*(result(store, each) for each in keys))
        assert results == [each.arguments_json * 50 for each in keys]

    async def test_a_cancelled_caller_hurts_no_other(self, store: CacheStore) -> None:
        await stored(store)
        callers = [asyncio.ensure_future(result(store)) for _ in range(100)]
        await asyncio.sleep(0)
        for caller in callers[::2]:
            caller.cancel()
        outcomes = await asyncio.gather(*callers, return_exceptions=True)
        assert outcomes[1::2] == ['"r"'] * 50
        assert await result(store) == '"r"'

    async def test_a_large_value_hurts_no_other(self, store: CacheStore) -> None:
        large = '"' + "x" * (4 << 20) + '"'
        await asyncio.gather(
            *(stored(store, key(f'{{"n":{number}}}'), value(large)) for number in range(4)),
            *(stored(store) for _ in range(32)),
        )
        assert await result(store, key('{"n":3}')) == large
        assert await result(store) == '"r"'

    async def test_what_is_read_during_a_write_is_never_served(self, store: CacheStore) -> None:
        state = 0

        async def read() -> None:
            snapshot = (await look(store)).snapshot
            seen = state
            await asyncio.sleep(0)
            await put(store, what=value(str(seen)), conditions=Conditions(snapshot=snapshot))

        async def write() -> None:
            nonlocal state
            await store.announce(TENANT, "w", ["=file:/a"], WRITTEN, 60.0)
            state += 1
            await store.advance(TENANT, ["=file:/a"], WRITTEN, settles="w")

        async def check() -> None:
            before = state
            found = await result(store)
            assert found is None or int(found) >= before - 1

        for _ in range(20):
            await asyncio.gather(*(read() for _ in range(8)), write(), *(check() for _ in range(4)))
            assert (await look(store)).entry is None or await result(store) == str(state)
