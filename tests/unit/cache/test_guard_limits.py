"""What the guard of a remote store takes at most: bytes of values, and missed writes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence

import pytest

from precall_service.cache.base import (
    CacheKey,
    Changed,
    Conditions,
    Dependency,
    Mismatched,
    NotYet,
    Origin,
    Stored,
    StoreUnavailableError,
    Value,
)
from precall_service.cache.guard import MISSED_MAX, PUT_BYTES_MAX, GuardedStore
from precall_service.cache.guard_policy import GuardPolicy
from precall_service.cache.remote import StoreLostError
from precall_service.domain.tools import CacheScope
from tests.support.clock import ManualClock, settle
from tests.support.shaky_store import ShakyStore

KEY = CacheKey(
    tenant="ann",
    scope=CacheScope.TENANT,
    conversation_id="",
    tool_name="look",
    tool_version="1",
    arguments_json="{}",
    digest=bytes(32),
)


class SlowPuts(ShakyStore):
    """A store that takes values only when the test lets it."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(clock)
        self.let = asyncio.Event()

    async def put(
        self,
        key: CacheKey,
        value: Value,
        nodes: Sequence[str],
        dependencies: Sequence[Dependency],
        conditions: Conditions,
    ) -> Stored | Changed | Mismatched | NotYet:
        await self.let.wait()
        return await super().put(key, value, nodes, dependencies, conditions)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def store(clock: ManualClock) -> SlowPuts:
    return SlowPuts(clock)


@pytest.fixture
async def guard(store: SlowPuts, clock: ManualClock) -> AsyncGenerator[GuardedStore]:
    async with GuardedStore(store, clock, GuardPolicy(timeout_s=0.05)) as guard:
        yield guard


def put(guard: GuardedStore, result: int, content: int = 0) -> asyncio.Task[object]:
    value = Value(
        result_json="1" * result,
        content="x" * content,
        execution_id="",
        origin=Origin.PUT,
        cost_s=1.0,
        ttl_s=60.0,
    )
    return asyncio.create_task(guard.put(KEY, value, ["a:"], [], Conditions()))


async def test_only_so_many_bytes_are_sent_at_the_same_time(
    guard: GuardedStore, store: SlowPuts
) -> None:
    first = put(guard, PUT_BYTES_MAX // 2)
    second = put(guard, 1, PUT_BYTES_MAX)
    await settle()
    with pytest.raises(StoreUnavailableError, match="other large values"):
        await second
    store.let.set()
    assert isinstance(await first, Stored)
    assert isinstance(await put(guard, 1, PUT_BYTES_MAX), Stored)


async def test_values_that_are_late_do_not_close_the_store(
    guard: GuardedStore, clock: ManualClock
) -> None:
    for _ in range(10):
        late = put(guard, 10)
        await settle()
        clock.advance(1.0)
        with pytest.raises(StoreUnavailableError, match="no answer"):
            await late
    assert guard.available
    await guard.look_up(KEY, ["a:"])


@pytest.mark.parametrize("sizes", [(1 << 20, 0), (1, 1 << 20)], ids=["result", "content"])
async def test_a_large_value_may_take_longer(
    guard: GuardedStore, store: SlowPuts, clock: ManualClock, sizes: tuple[int, int]
) -> None:
    large = put(guard, *sizes)
    await settle()
    clock.advance(0.09)
    await settle()
    store.let.set()
    assert isinstance(await large, Stored)


async def test_it_says_so_if_it_has_missed_more_than_it_remembers(
    store: SlowPuts, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with GuardedStore(store, clock, GuardPolicy(timeout_s=0.05)) as guard:
        store.fails = StoreLostError("gone")
        for number in range(MISSED_MAX + 1):
            with pytest.raises(StoreUnavailableError):
                await guard.advance("ann", [f"n{number}"], None)
    assert f"missed more than {MISSED_MAX} changes" in caplog.text
