"""The log of what is learned: its bounds in memory, and failures of its store."""

from __future__ import annotations

import pytest

from precall_service.cache.base import CacheStore, StoreUnavailableError
from precall_service.cache.cache import ToolCache
from precall_service.cache.guard import GuardedStore
from precall_service.cache.guard_policy import GuardPolicy
from precall_service.cache.limits import CacheLimits
from precall_service.cache.records import RecordLogs
from tests.support.clock import ManualClock
from tests.support.shaky_store import ShakyStore


def sizes(logs: RecordLogs, tenant: str) -> list[int]:
    return [len(record) for _, record in logs.page(tenant, 0)]


def test_the_tenant_with_the_most_bytes_makes_room() -> None:
    logs = RecordLogs(bytes_max=100)
    for size in (30, 20):
        logs.add("ann", b"x" * size)
    for size in (40, 20):
        logs.add("bob", b"x" * size)
    assert sizes(logs, "ann") == [30, 20]
    assert sizes(logs, "bob") == [20]
    logs.add("eve", b"x" * 35)
    assert sizes(logs, "ann") == [20]
    assert sizes(logs, "eve") == [35]


def test_the_tenant_that_was_used_longest_ago_makes_room_for_another() -> None:
    logs = RecordLogs(bytes_max=100, tenants_max=2)
    logs.add("ann", b"x" * 50)
    logs.add("bob", b"x" * 30)
    assert sizes(logs, "ann") == [50]
    logs.add("eve", b"x" * 50)
    assert sizes(logs, "bob") == []
    assert sizes(logs, "ann") == [50]
    assert sizes(logs, "eve") == [50]


class Failing(ShakyStore):
    """Its log fails in the way that the test says."""

    defect: BaseException | None = None

    async def remember(self, tenant: str, record: bytes) -> None:
        if self.defect is not None:
            raise self.defect
        await super().remember(tenant, record)

    async def recall(self, tenant: str, after: int) -> list[tuple[int, bytes]]:
        if self.defect is not None:
            raise self.defect
        return await super().recall(tenant, after)


def cache_of(store: CacheStore) -> ToolCache:
    return ToolCache(store, CacheLimits())


async def test_the_cache_passes_records_on() -> None:
    cache = cache_of(ShakyStore(ManualClock()))
    await cache.remember("ann", b"1")
    assert await cache.recall("ann", 0) == [(1, b"1")]
    assert await cache.recall("ann", 1) == []


async def test_a_failing_store_costs_only_what_was_learned() -> None:
    store = Failing(ManualClock())
    cache = cache_of(store)
    store.defect = StoreUnavailableError("down")
    await cache.remember("ann", b"1")
    assert await cache.recall("ann", 0) is None
    assert (await cache.stats("ann")).store_failures == 2


async def test_a_defect_of_the_store_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    store = Failing(ManualClock())
    cache = cache_of(store)
    store.defect = ZeroDivisionError()
    await cache.remember("ann", b"1")
    assert await cache.recall("ann", 0) is None
    assert "the keeping of what was learned" in caplog.text
    assert "the reading of what was learned" in caplog.text


async def test_a_log_that_fails_does_not_close_the_cache() -> None:
    store = Failing(ManualClock())
    async with GuardedStore(store, store.clock, GuardPolicy()) as guard:
        store.defect = StoreUnavailableError("slow")
        for _ in range(10):
            with pytest.raises(StoreUnavailableError):
                await guard.remember("ann", b"1")
            with pytest.raises(StoreUnavailableError):
                await guard.recall("ann", 0)
        assert guard.available
