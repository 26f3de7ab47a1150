"""The contract of every cache store: the log of what is learned about a tenant."""

from __future__ import annotations

import os
from contextlib import ExitStack

import pytest

from precall_service.cache import records
from precall_service.cache.base import CacheStore, StoreUnavailableError
from precall_service.cache.redis import store as redis_module
from precall_service.cache.redis.store import KEEP_MS
from tests.support.any_store import TENANT
from tests.support.redis_server import RedisServer, running_redis
from tests.support.redis_store import back, opened

LOG = "test:1:ann:learned"


async def recalled(store: CacheStore, tenant: str = TENANT) -> list[bytes]:
    """All records, read page by page."""
    found: list[bytes] = []
    after = 0
    while page := await store.recall(tenant, after):
        numbers = [number for number, _ in page]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        assert numbers[0] > after
        after = numbers[-1]
        found += [record for _, record in page]
    return found


async def test_nothing_is_recalled_where_nothing_was_learned(store: CacheStore) -> None:
    assert await store.recall(TENANT, 0) == []


async def test_records_come_back_as_they_were_in_their_order(store: CacheStore) -> None:
    kept = [b"", b"\0\r\n$3\r\n\xff", b"1", os.urandom(1000), b"1"]
    for record in kept:
        await store.remember(TENANT, record)
    assert await store.recall(TENANT, 0) == list(enumerate(kept, 1))
    assert await store.recall(TENANT, 3) == [(4, kept[3]), (5, kept[4])]
    assert await store.recall(TENANT, 5) == []
    assert await store.recall(TENANT, 99) == []


async def test_tenants_share_no_records(store: CacheStore) -> None:
    await store.remember(TENANT, b"ann's")
    await store.remember("bob", b"bob's")
    assert await recalled(store) == [b"ann's"]
    assert await recalled(store, "bob") == [b"bob's"]


async def test_a_page_is_bounded_in_records_and_in_bytes(store: CacheStore) -> None:
    small, large = b"x", b"y" * records.RECORD_BYTES_MAX
    for _ in range(records.PAGE_RECORDS_MAX + 1):
        await store.remember(TENANT, small)
    for _ in range(2 * records.PAGE_BYTES_MAX // len(large)):
        await store.remember("bob", large)
    assert len(await store.recall(TENANT, 0)) == records.PAGE_RECORDS_MAX
    assert len(await recalled(store)) == records.PAGE_RECORDS_MAX + 1
    page = await store.recall("bob", 0)
    assert sum(len(record) for _, record in page) == records.PAGE_BYTES_MAX
    assert len(await recalled(store, "bob")) == 2 * len(page)


async def test_a_record_that_is_too_large_is_not_kept(store: CacheStore) -> None:
    await store.remember(TENANT, b"x" * (records.RECORD_BYTES_MAX + 1))
    assert await recalled(store) == []


async def test_the_newest_records_are_kept(
    store: CacheStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (records, redis_module):
        monkeypatch.setattr(module, "RECORDS_MAX", 3)
    for number in range(10):
        await store.remember(TENANT, b"%d" % number)
    assert await recalled(store) == [b"7", b"8", b"9"]
    assert [number for number, _ in await store.recall(TENANT, 0)] == [8, 9, 10]


async def test_the_bytes_of_the_records_are_bounded(
    store: CacheStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (records, redis_module):
        monkeypatch.setattr(module, "RECORDS_BYTES_MAX", 100)
    for size in (40, 40, 20, 1):
        await store.remember(TENANT, b"x" * size)
    assert list(map(len, await recalled(store))) == [40, 20, 1]
    await store.remember(TENANT, b"x" * 99)
    assert list(map(len, await recalled(store))) == [1, 99]
    await store.remember(TENANT, b"x" * 100)
    assert list(map(len, await recalled(store))) == [100]


async def test_learning_gives_out_no_position(store: CacheStore) -> None:
    """Writes of a tenant that does not use the cache stay free, although it learns."""
    before = store.concerns("new")
    await store.remember("new", b"x")
    assert store.concerns("new") == before


class TestRedis:
    async def test_records_expire_with_the_tenant(self, redis_server: RedisServer) -> None:
        async with opened(redis_server) as store:
            await store.remember(TENANT, b"x")
        left_ms = redis_server.ask("PTTL", LOG)
        assert isinstance(left_ms, int)
        assert KEEP_MS - 60_000 < left_ms <= KEEP_MS

    async def test_two_servers_add_to_one_log(self, redis_server: RedisServer) -> None:
        async with opened(redis_server) as one, opened(redis_server) as other:
            await one.remember(TENANT, b"1")
            await other.remember(TENANT, b"2")
            assert await recalled(one) == await recalled(other) == [b"1", b"2"]

    @pytest.mark.parametrize("durable", [True, False])
    async def test_a_restarted_server_has_what_it_kept_on_disk(self, *, durable: bool) -> None:
        with ExitStack() as stack:
            server = stack.enter_context(running_redis(aof=durable))
            async with opened(server) as store:
                await store.remember(TENANT, b"before")
                server.kill()
                with pytest.raises(StoreUnavailableError):
                    await store.remember(TENANT, b"lost")
                server.start()
                await back(store)
                await store.remember(TENANT, b"after")
                expected = [b"before", b"after"] if durable else [b"after"]
                assert await recalled(store) == expected
