"""The guard around a remote store: timeouts, the breaker, missed writes and the recovery."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from precall_service.cache.base import (
    CacheKey,
    Change,
    ChangeKind,
    Conditions,
    Dependency,
    Lookup,
    Origin,
    StoreUnavailableError,
    Value,
)
from precall_service.cache.guard import MISSED_MAX, GuardedStore, GuardPolicy
from precall_service.cache.remote import StoreLostError
from precall_service.domain.tools import CacheScope
from tests.support.clock import ManualClock, settle
from tests.support.shaky_store import BusyClock, ShakyStore

TIMEOUT_S = 0.05
LOG = "precall_service.cache.guard"
WRITTEN = Change(kind=ChangeKind.RESOURCE, names=("file:/a",))
KEY = CacheKey(
    tenant="ann",
    scope=CacheScope.TENANT,
    conversation_id="",
    tool_name="look",
    tool_version="1",
    arguments_json="{}",
    digest=bytes(32),
)


@pytest.fixture
def clock() -> BusyClock:
    return BusyClock()


@pytest.fixture
async def shaky(clock: ManualClock) -> ShakyStore:
    return ShakyStore(clock)


@pytest.fixture
async def guard(shaky: ShakyStore, clock: ManualClock) -> AsyncGenerator[GuardedStore]:
    async with guarded(shaky, clock) as guard:
        yield guard


@asynccontextmanager
async def guarded(shaky: ShakyStore, clock: ManualClock) -> AsyncGenerator[GuardedStore]:
    policy = GuardPolicy(timeout_s=TIMEOUT_S, close_s=0.05)
    async with GuardedStore(shaky, clock, policy) as guard:
        yield guard


async def look(guard: GuardedStore) -> Lookup:
    return await guard.look_up(KEY, ["a:"])


async def advance(guard: GuardedStore, node: str = "n") -> int:
    return await guard.advance("ann", [node], WRITTEN)


async def refused(operation: Awaitable[object]) -> str:
    """Awaits an operation that fails at once; returns the message."""
    with pytest.raises(StoreUnavailableError) as caught:
        await asyncio.wait_for(operation, 10)
    return str(caught.value)


async def times_out(clock: ManualClock, operation: Callable[[], Awaitable[object]]) -> str:
    """Lets an operation of a hanging store run out of time; returns the message."""
    waiting = asyncio.ensure_future(operation())
    await settle()
    clock.advance(TIMEOUT_S * 0.9)
    await settle()
    assert not waiting.done()
    clock.advance(TIMEOUT_S * 0.1)
    return await refused(waiting)


async def back(clock: ManualClock, shaky: ShakyStore) -> None:
    """Lets the store answer again, and the guard notice it."""
    shaky.fails, shaky.hangs = None, False
    clock.advance(5.0)
    await settle()


async def test_operations_reach_the_store(guard: GuardedStore) -> None:
    value = Value(
        result_json="1", content="", execution_id="", origin=Origin.PUT, cost_s=1.0, ttl_s=9.0
    )
    await guard.put(KEY, value, ["a:"], [], Conditions())
    assert (await look(guard)).entry is not None
    assert (await guard.size("ann")).entries == 1
    await guard.announce("ann", "w", ["n"], WRITTEN, 1.0)
    position = await guard.advance("ann", ["n"], WRITTEN, settles="w")
    found = await guard.versions("ann", [Dependency("x:y", ("n",))])
    assert found.versions == [position]
    assert await guard.drop(KEY) > position
    assert (await look(guard)).entry is None
    changes = guard.watch("ann", position - 1)
    assert (await anext(changes)).position == position
    await changes.aclose()
    assert guard.available
    assert guard.failures == 0


class TestBreaker:
    async def test_a_hanging_store_costs_its_timeout_and_then_nothing(
        self, guard: GuardedStore, shaky: ShakyStore, clock: ManualClock
    ) -> None:
        shaky.hangs = True
        for _ in range(3):
            assert guard.available
            assert "50 ms" in await times_out(clock, lambda: look(guard))
        assert not guard.available
        shaky.fails = StoreLostError("hangs")
        assert "is down" in await refused(look(guard))
        assert "is down" in await refused(guard.size("ann"))
        assert "is down" in await refused(anext(guard.watch("ann", None)))
        assert guard.failures == 6

    async def test_only_failures_in_a_row_count(
        self, guard: GuardedStore, shaky: ShakyStore, clock: ManualClock
    ) -> None:
        for _ in range(5):
            shaky.hangs = True
            await times_out(clock, lambda: look(guard))
            await times_out(clock, lambda: look(guard))
            shaky.hangs = False
            await look(guard)
        assert guard.available
        assert guard.failures == 10

    async def test_a_lost_connection_opens_it_at_once(
        self, guard: GuardedStore, shaky: ShakyStore
    ) -> None:
        shaky.fails = StoreLostError("gone")
        assert await refused(look(guard)) == "gone"
        assert not guard.available
        assert shaky.calls == []

    async def test_a_failed_watcher_is_counted_and_stops_nobody(
        self, guard: GuardedStore, shaky: ShakyStore
    ) -> None:
        shaky.fails = StoreLostError("gone")
        assert await refused(anext(guard.watch("ann", None))) == "gone"
        assert guard.available
        assert guard.failures == 1

    async def test_the_recovery_waits_longer_each_time(
        self, guard: GuardedStore, shaky: ShakyStore, clock: ManualClock
    ) -> None:
        start = clock.now()
        shaky.attempts.clear()
        shaky.fails = StoreLostError("gone")
        await refused(look(guard))
        for _ in range(300):
            await settle()
            clock.advance(0.05)
        tried = [start, *shaky.attempts]
        waits = [after - before for before, after in itertools.pairwise(tried)]
        assert waits == pytest.approx([0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 5.0], abs=0.06)
        assert not guard.available
        await back(clock, shaky)
        assert guard.available
        await look(guard)

    async def test_a_store_that_soon_fails_again_is_not_tried_at_once(
        self, guard: GuardedStore, shaky: ShakyStore, clock: ManualClock
    ) -> None:
        for stable_s, tried in ((20.0, True), (1.0, False), (20.0, True)):
            clock.advance(stable_s)
            shaky.attempts.clear()
            shaky.fails = StoreLostError("gone")
            await refused(look(guard))
            await settle()
            assert bool(shaky.attempts) == tried
            await back(clock, shaky)
            assert guard.available

    async def test_an_outage_is_told_twice(
        self,
        guard: GuardedStore,
        shaky: ShakyStore,
        clock: ManualClock,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        caplog.set_level(logging.INFO, LOG)
        shaky.fails = StoreLostError("gone")
        for _ in range(5):
            await refused(look(guard))
            clock.advance(1.0)
            await settle()
        await back(clock, shaky)
        assert [(each.levelname, each.getMessage()) for each in caplog.records] == [
            ("WARNING", f"the cache store at {shaky.name} is down, and tools run without it: gone"),
            ("INFO", f"the cache store at {shaky.name} is back after 10.0 s"),
        ]

    async def test_an_answer_that_waits_behind_a_busy_event_loop_counts(
        self, guard: GuardedStore, shaky: ShakyStore, clock: BusyClock
    ) -> None:
        shaky.held = asyncio.get_running_loop().create_future()
        waiting = asyncio.ensure_future(look(guard))
        await settle()
        clock.be_busy(10 * TIMEOUT_S)
        await settle()
        assert not waiting.done()
        shaky.held.set_result(None)
        assert (await waiting).entry is None
        assert guard.failures == 0


class TestMissedWrites:
    @pytest.mark.parametrize("how", ["times out", "fails", "is refused"])
    async def test_a_missed_write_is_made_up_for_before_anything_is_looked_up(
        self, guard: GuardedStore, shaky: ShakyStore, clock: ManualClock, how: str
    ) -> None:
        if how == "times out":
            shaky.hangs = True
            await times_out(clock, lambda: advance(guard, "first"))
            shaky.fails = StoreLostError("gone")
        else:
            shaky.fails = StoreLostError("gone") if how == "fails" else None
            if how == "is refused":
                shaky.fails = StoreLostError("gone")
                await refused(look(guard))
            await refused(advance(guard, "first"))
        assert not guard.available, "one missed write is enough"
        await refused(guard.announce("ann", "w", ["second"], WRITTEN, 60.0))
        await refused(guard.drop(KEY))
        await refused(advance(guard, "third"))
        await refused(look(guard))
        assert shaky.calls == []
        await back(clock, shaky)
        await look(guard)
        assert shaky.calls == [
            "advance first",
            "announce second",
            "drop",
            "advance third",
            "look_up",
        ]

    async def test_a_write_has_the_store_tried_at_once(
        self, guard: GuardedStore, shaky: ShakyStore, clock: ManualClock
    ) -> None:
        """Another server may use the store again, and must not serve what the write makes stale."""
        shaky.fails = StoreLostError("gone")
        await refused(look(guard))
        await settle()
        await refused(advance(guard, "missed"))
        shaky.fails = None
        before = clock.now()
        assert await advance(guard, "made") > 0
        assert sorted(shaky.calls) == ["advance made", "advance missed"]
        assert clock.now() == before
        await settle()
        assert (await look(guard)).entry is None

    async def test_look_ups_are_refused_until_all_is_made_up_for(
        self, guard: GuardedStore, shaky: ShakyStore, clock: ManualClock
    ) -> None:
        shaky.fails = StoreLostError("gone")
        for node in ("first", "second", "third"):
            await refused(advance(guard, node))
        shaky.fails_after["advance second"] = 0
        await back(clock, shaky)
        assert shaky.calls == ["advance first", "advance third"]
        assert not guard.available
        await refused(look(guard))
        del shaky.fails_after["advance second"]
        await back(clock, shaky)
        assert guard.available
        assert shaky.calls[2:] == ["advance second"]

    async def test_new_writes_pass_while_missed_ones_are_made_up_for(
        self, guard: GuardedStore, shaky: ShakyStore, clock: ManualClock
    ) -> None:
        shaky.fails = StoreLostError("gone")
        await refused(advance(guard, "first"))
        await settle()
        shaky.held = asyncio.get_running_loop().create_future()
        await back(clock, shaky)
        assert not guard.available
        later = asyncio.ensure_future(advance(guard, "later"))
        await settle()
        await refused(look(guard))
        shaky.held.set_result(None)
        await later
        await settle()
        assert guard.available
        assert shaky.calls == ["advance first", "advance later"]

    async def test_too_many_missed_writes_make_everything_stale(
        self, guard: GuardedStore, shaky: ShakyStore, clock: ManualClock
    ) -> None:
        shaky.fails = StoreLostError("gone")
        for number in range(MISSED_MAX + 5):
            await refused(advance(guard, str(number)))
        shaky.fails_after["epoch"] = 0
        await back(clock, shaky)
        assert not guard.available
        assert shaky.calls == []
        del shaky.fails_after["epoch"]
        await back(clock, shaky)
        assert guard.available
        assert shaky.calls == ["epoch"]
        await advance(guard)
        assert shaky.calls.count("epoch") == 1

    async def test_a_write_whose_caller_is_cancelled_is_made(
        self, guard: GuardedStore, shaky: ShakyStore, clock: ManualClock
    ) -> None:
        caller = asyncio.ensure_future(advance(guard, "first"))
        await asyncio.sleep(0)
        caller.cancel()
        await settle()
        assert caller.cancelled()
        assert shaky.calls == ["advance first"]
        shaky.hangs = True
        caller = asyncio.ensure_future(advance(guard, "second"))
        await settle()
        caller.cancel()
        await settle()
        shaky.hangs = False
        clock.advance(TIMEOUT_S)
        await settle()
        await look(guard)
        assert shaky.calls == ["advance first", "advance second", "look_up"]

    async def test_writes_under_way_when_the_store_goes_down_are_made_up_for(
        self, guard: GuardedStore, shaky: ShakyStore, clock: ManualClock
    ) -> None:
        shaky.hangs = True
        first = asyncio.ensure_future(advance(guard, "first"))
        await settle()
        shaky.hangs = False
        shaky.fails_after["look_up"] = 0
        for _ in range(3):
            await refused(look(guard))
        await refused(first)
        del shaky.fails_after["look_up"]
        await settle()
        await look(guard)
        assert shaky.calls == ["advance first", "look_up"]


class TestLife:
    async def test_a_store_that_is_away_at_the_start_stops_nobody(
        self, shaky: ShakyStore, clock: ManualClock, caplog: pytest.LogCaptureFixture
    ) -> None:
        shaky.fails = StoreLostError("connection refused")
        async with guarded(shaky, clock) as guard:
            assert not guard.available
            assert "connection refused" in caplog.text
            await refused(look(guard))
            await settle()
            await back(clock, shaky)
            assert guard.available

    async def test_closes_within_its_time_and_once(
        self, shaky: ShakyStore, clock: ManualClock, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with guarded(shaky, clock) as guard:
            shaky.hangs = True
            write = asyncio.ensure_future(advance(guard))
            await settle()
            await guard.close()
            with pytest.raises(asyncio.CancelledError):
                await write
            assert await refused(look(guard))
            await guard.close()
        assert shaky.closed == 1
        assert "missed 1 changes" in caplog.text

    async def test_a_recovery_ends_with_the_guard(
        self, shaky: ShakyStore, clock: ManualClock
    ) -> None:
        async with guarded(shaky, clock) as guard:
            shaky.fails = StoreLostError("gone")
            await refused(look(guard))
            await settle()
            shaky.fails = None
        assert clock.pending == 0
