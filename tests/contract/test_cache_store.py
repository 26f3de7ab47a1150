"""The contract of every cache store: what it stores, and when entries may be used."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import replace

import pytest

from precall_service.cache.base import (
    CacheStore,
    Change,
    Changed,
    ChangeKind,
    Conditions,
    Dependency,
    Mismatched,
    NotYet,
    ResourceVersion,
    Stored,
)
from tests.support.any_store import (
    KEY,
    NODES,
    NODES_MAX,
    OTHER,
    READ,
    TENANT,
    TTL_S,
    WRITTEN,
    Opened,
    key,
    look,
    put,
    resource,
    result,
    stored,
    value,
    version,
)


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
        await stored(store, what=replace(value(), cost_s=cost_s))
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

    async def test_the_expected_entry_is_usable_by_what_it_depends_on_itself(
        self, store: CacheStore
    ) -> None:
        snapshot = (await look(store)).snapshot
        await store.advance(TENANT, ["=file:/a"], WRITTEN)
        first = await put(store, conditions=Conditions(snapshot=snapshot), reads=())
        assert isinstance(first, Stored)
        second = await put(store, conditions=Conditions(entry_version=first.entry_version))
        assert second == Stored(first.entry_version + 1)

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
            """Puts until a put succeeds; returns the version of the entry."""
            while True:
                entry = (await look(store)).entry
                assert entry is not None
                now = Conditions(entry_version=entry.entry_version)
                if isinstance(outcome := await put(store, conditions=now), Stored):
                    return outcome.entry_version

        made = await asyncio.gather(*(grow() for _ in range(16)))
        assert sorted(made) == list(range(first + 1, first + 17))


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
