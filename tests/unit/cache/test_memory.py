"""The in-process store: what it drops, what it forgets, and how much memory it takes."""

from __future__ import annotations

import random
import tracemalloc
from dataclasses import replace

from precall_service.cache.base import CacheKey, Conditions, Dependency, Origin, Stored, Value
from precall_service.cache.keys import cache_key, entry_nodes
from precall_service.cache.memory import TENANTS_MAX, MemoryStore
from precall_service.domain.resources import read_nodes, write_nodes
from precall_service.domain.tools import CacheScope
from tests.support.clock import ManualClock

KIB = 1024
ENTRY_SIZE = 1450
"""A little more than an entry with a result of a KiB counts as."""


def key(number: int, tenant: str = "ann") -> CacheKey:
    return cache_key(
        tenant=tenant,
        scope=CacheScope.TENANT,
        conversation_id="",
        tool_name="read",
        tool_version="1",
        arguments={"n": number},
    )


def value(size: int = KIB, *, cost_s: float = 1.0, ttl_s: float = 1e6) -> Value:
    return Value(
        result_json=f'"{"x" * (size - 2)}"',
        content="",
        execution_id="e" * 32,
        origin=Origin.COMMITTED,
        cost_s=cost_s,
        ttl_s=ttl_s,
    )


class Store:
    """A store with room for about `entries` entries of a KiB."""

    def __init__(self, entries: int, *, nodes_max: int = 1024) -> None:
        self.clock = ManualClock()
        self.store = MemoryStore(
            self.clock,
            bytes_max=entries * ENTRY_SIZE,
            nodes_max=nodes_max,
            changes_max=16,
            chance=random.Random(1),
        )

    async def put(self, number: int, stored: Value | None = None, *, tenant: str = "ann") -> None:
        wanted = key(number, tenant)
        outcome = await self.store.put(
            wanted, stored or value(), entry_nodes(wanted), [], Conditions()
        )
        assert isinstance(outcome, Stored)

    async def holds(self, number: int, *, tenant: str = "ann") -> bool:
        """Whether there is a usable entry. Looking for it counts as a use."""
        wanted = key(number, tenant)
        return (await self.store.look_up(wanted, entry_nodes(wanted))).entry is not None


async def test_the_entries_stay_within_the_limit() -> None:
    store = Store(10)
    for number in range(100):
        await store.put(number)
        assert (await store.store.size("ann")).bytes <= 10 * ENTRY_SIZE
    size = await store.store.size("ann")
    assert size.entries >= 9
    assert size.evictions == 100 - size.entries


async def test_what_is_costly_to_compute_stays() -> None:
    store = Store(10)
    await store.put(0, value(cost_s=100.0))
    for number in range(1, 60):
        store.clock.advance(1)
        await store.put(number)
    assert await store.holds(0)


async def test_what_is_used_stays() -> None:
    store = Store(10)
    await store.put(0)
    for number in range(1, 60):
        store.clock.advance(1)
        for _ in range(3):
            assert await store.holds(0)
        await store.put(number)


async def test_what_is_small_stays() -> None:
    store = Store(10)
    await store.put(0, value(32))
    for number in range(1, 60):
        await store.put(number)
    assert await store.holds(0)


async def test_what_was_used_long_ago_goes() -> None:
    store = Store(10)
    await store.put(0)
    for _ in range(5):
        await store.holds(0)
    store.clock.advance(100_000)
    for number in range(1, 40):
        store.clock.advance(1)
        await store.put(number)
    assert not await store.holds(0)


async def test_what_has_expired_goes_first() -> None:
    store = Store(10)
    await store.put(0, value(cost_s=1000.0, ttl_s=1.0))
    for number in range(1, 10):
        await store.put(number)
    store.clock.advance(2)
    await store.put(10)
    assert [number for number in range(11) if not await store.holds(number)] == [0]


async def test_a_tenant_that_fills_the_cache_drops_its_own_entries() -> None:
    store = Store(20)
    for number in range(5):
        await store.put(number, value(cost_s=0.001), tenant="bob")
    for number in range(200):
        await store.put(number, value(cost_s=1e9), tenant="ann")
    assert (await store.store.size("bob")).evictions == 0
    assert [await store.holds(number, tenant="bob") for number in range(5)] == [True] * 5


async def test_forgotten_versions_make_older_entries_stale_and_no_newer_ones() -> None:
    store = Store(100, nodes_max=8)
    read = Dependency("file:/a", tuple(read_nodes("file:/a")))
    old, new = key(1), key(2)
    await store.store.put(old, value(), entry_nodes(old), [read], Conditions())
    for number in range(20):
        await store.store.advance("ann", write_nodes(f"file:/other/{number}"), None)
    await store.store.put(new, value(), entry_nodes(new), [read], Conditions())
    found = await store.store.look_up(old, entry_nodes(old))
    assert (found.entry, found.stale) == (None, True)
    assert await store.holds(2)


async def test_a_tenant_without_entries_is_forgotten_and_its_positions_never_come_again() -> None:
    store = Store(10)
    before = await store.store.advance("ann", ["=x"], None)
    for number in range(TENANTS_MAX + 5):
        await store.store.advance(f"t{number}", ["=x"], None)
    after = await store.store.versions("ann", [Dependency("x", ("=x",))])
    assert after.versions[0] > before


async def test_positions_do_not_go_back_with_the_clock() -> None:
    times = iter([5.0, 5.0, 5.0, 1.0, 1.0, 1.0, 1.0])
    store = MemoryStore(
        ManualClock(), bytes_max=1 << 20, nodes_max=64, changes_max=16, wall_s=lambda: next(times)
    )
    first = await store.advance("ann", ["=x"], None)
    second = await store.advance("ann", ["=x"], None)
    assert (first, second) == (5_000_001, 5_000_002)


async def test_memory_is_at_most_a_third_more_than_the_results() -> None:
    """Entries of 1 KiB; the bench measures the same by the process's memory."""
    store = Store(10_000)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for number in range(5000):
            wanted = key(number)
            stored = replace(value(), result_json=f'"{number:01022}"')
            await store.store.put(wanted, stored, entry_nodes(wanted), [], Conditions())
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 5000 * KIB * 1.33


async def test_room_for_a_large_entry_is_made_of_many_small_ones_at_once() -> None:
    store = Store(100)
    for number in range(250):
        await store.put(number, value(32))
    full = (await store.store.size("ann")).entries
    await store.put(1000, value(64 * KIB))
    assert await store.holds(1000)
    assert (await store.store.size("ann")).bytes <= 100 * ENTRY_SIZE
    assert (await store.store.size("ann")).entries < full


async def test_an_entry_larger_than_the_cache_drops_no_other() -> None:
    store = Store(10)
    for number in range(5):
        await store.put(number)
    await store.put(100, value(20 * KIB))
    assert not await store.holds(100)
    assert [await store.holds(number) for number in range(5)] == [True] * 5


async def test_what_small_entries_take_besides_their_results_counts() -> None:
    store = Store(100)
    for number in range(2000):
        await store.put(number, value(8))
    assert (await store.store.size("ann")).entries < 100 * ENTRY_SIZE / 300


async def test_tenants_are_forgotten_although_they_hold_entries() -> None:
    store = Store(TENANTS_MAX * 2)
    for number in range(TENANTS_MAX + 50):
        await store.put(number, value(8), tenant=f"t{number}")
    held = [await store.holds(number, tenant=f"t{number}") for number in range(60)]
    assert held.count(False) >= 50


async def test_long_names_of_resources_are_forgotten_sooner() -> None:
    store = Store(10, nodes_max=64)
    read = Dependency("file:/a", tuple(read_nodes("file:/a")))
    [before] = (await store.store.versions("ann", [read])).versions
    for number in range(8):
        await store.store.advance("ann", [f"=x:{number}{'y' * 1000}"], None)
    [after] = (await store.store.versions("ann", [read])).versions
    assert after > before, "the versions of some were forgotten"
