"""The contract of every cache store: versions, announced writes, and the log of changes."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from precall_service.cache.base import (
    CacheStore,
    Change,
    Changed,
    ChangeKind,
    Conditions,
    Dependency,
    Versions,
)
from tests.support.any_store import (
    CHANGES_MAX,
    KEY,
    OTHER,
    READ,
    TENANT,
    WRITTEN,
    Opened,
    key,
    look,
    put,
    resource,
    result,
    stored,
    take,
    value,
    version,
)


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
