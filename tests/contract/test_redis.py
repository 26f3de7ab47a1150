"""A Redis that is restarted, hangs or is down: nothing stale is served, and nothing hangs."""

from __future__ import annotations

import asyncio
import itertools
import random
import shutil
import socket
from contextlib import AsyncExitStack, aclosing, suppress
from pathlib import Path

import pytest

from precall_service.cache.base import (
    Change,
    ChangeKind,
    Conditions,
    Dependency,
    StoreUnavailableError,
)
from precall_service.cache.guard import GuardedStore
from precall_service.cache.redis.connection import Server
from precall_service.cache.redis.store import RedisStore
from precall_service.cache.remote import StoreLostError
from tests.support.redis_server import RedisServer, running_redis
from tests.support.redis_store import (
    HASTY_S,
    NODES,
    READ,
    TENANT,
    back,
    key,
    opened,
    put,
    result,
    unavailable,
    until,
    value,
    write,
)


class TestRestart:
    @pytest.mark.parametrize("aof", [False, True], ids=["memory only", "append-only file"])
    async def test_a_restarted_server_serves_nothing_from_before(self, aof: bool) -> None:
        with running_redis(aof=aof) as server:
            async with opened(server) as store, opened(server) as other:
                assert await put(store)
                position = await write(other)
                snapshot = (await store.look_up(key(), NODES)).snapshot
                assert await put(store, "1")
                assert await result(other) == "1"
                server.kill()
                await unavailable(store.look_up(key(), NODES))
                server.start()
                await back(store)
                assert await result(store) is None
                assert not await put(store, "read before", snapshot=snapshot)
                now = await store.look_up(key(), NODES)
                assert now.snapshot > snapshot >= position
                assert await put(store, "2", snapshot=now.snapshot)
                await back(other)
                assert await result(other) == "2"

    async def test_changes_that_a_restart_has_lost_serve_nothing_stale(
        self, tmp_path: Path
    ) -> None:
        with running_redis(aof=True) as server:
            async with opened(server) as store:
                assert await put(store)
                kept = tmp_path / "kept"
                shutil.copytree(server.folder, kept)
                await write(store)
                assert await result(store) is None
                server.kill()
                shutil.rmtree(server.folder)
                shutil.copytree(kept, server.folder)
                server.start()
                assert server.ask("KEYS", "test:*:e:*"), "the stale entry is there again"
                await unavailable(store.look_up(key(), NODES))
                await back(store)
                assert await result(store) is None

    async def test_one_restart_makes_things_stale_once(self) -> None:
        with running_redis(aof=True) as server:
            async with opened(server) as store, opened(server) as other:
                await write(other)
                server.kill()
                server.start()
                await unavailable(store.look_up(key(), NODES))
                await back(store)
                assert await put(store, "new")
                assert await result(other) == "new"
            async with opened(server) as third:
                assert await result(third) == "new"

    @pytest.mark.parametrize("aof", [False, True], ids=["memory only", "append-only file"])
    async def test_under_load_nothing_stale_is_served_and_nothing_hangs(self, aof: bool) -> None:
        """Two servers read and write one resource while Redis dies and comes back.

        `state` is the resource. A write bumps before it counts as done, as in a turn. Each server
        knows of the writes that it has made itself; one that was missed by the other server holds
        back nobody but that one, so each has a resource of its own.
        """
        with running_redis(aof=aof) as server:
            async with AsyncExitStack() as stack:
                stores = [await stack.enter_async_context(opened(server)) for _ in range(2)]
                loads = [Load(store, index) for index, store in enumerate(stores)]
                stop = asyncio.Event()
                group = await stack.enter_async_context(asyncio.TaskGroup())
                for load in loads:
                    for number in range(4):
                        group.create_task(load.read(stop, random.Random(number)))
                    group.create_task(load.write(stop, random.Random(0)))
                for _ in range(3):
                    served = [load.served + 20 for load in loads]
                    await until(lambda served=served: all(map(Load.has_served, loads, served)))
                    server.kill()
                    failed = [store.failures + 20 for store in stores]
                    await until(
                        lambda failed=failed: all(
                            store.failures >= least
                            for store, least in zip(stores, failed, strict=True)
                        )
                    )
                    server.start()
                    for store in stores:
                        await back(store)
                stop.set()
            assert all(load.writes for load in loads)


class Load:
    """Reads and writes one resource, and checks what the cache serves for it."""

    def __init__(self, store: GuardedStore, index: int) -> None:
        resource = f"file:/{index}"
        self._store = store
        self._read = Dependency(resource, (f"={resource}",))
        self._change = Change(kind=ChangeKind.RESOURCE, names=(resource,))
        self._key = key(number=index)
        self._ids = itertools.count()
        self.state = 0
        self.done = 0
        self.served = 0
        self.writes = 0

    def has_served(self, least: int) -> bool:
        return self.served >= least

    async def read(self, stop: asyncio.Event, chance: random.Random) -> None:
        while not stop.is_set():
            done = self.done
            try:
                found = await self._store.look_up(self._key, [*NODES, *self._read.nodes])
                if found.entry is not None:
                    assert int(found.entry.value.result_json) >= done, "stale"
                    self.served += 1
                    continue
                seen = self.state
                await asyncio.sleep(chance.random() * 0.002)
                await self._store.put(
                    self._key,
                    value(str(seen)),
                    NODES,
                    [self._read],
                    Conditions(snapshot=found.snapshot),
                )
            except StoreUnavailableError:
                await asyncio.sleep(0.001)

    async def write(self, stop: asyncio.Event, chance: random.Random) -> None:
        while not stop.is_set():
            await asyncio.sleep(chance.random() * 0.01)
            write_id = f"w{next(self._ids)}"
            with suppress(StoreUnavailableError):  # The turn goes on.
                await self._store.announce(TENANT, write_id, self._read.nodes, self._change, 60.0)
            self.state += 1
            with suppress(StoreUnavailableError):
                await self._store.advance(TENANT, self._read.nodes, self._change, settles=write_id)
            self.done = self.state
            self.writes += 1


class TestOutage:
    async def test_a_server_that_hangs_costs_the_timeout(self) -> None:
        with running_redis() as server:
            async with opened(server, timeout_s=HASTY_S) as store:
                await result(store)
                server.stop()
                loop = asyncio.get_running_loop()
                start = loop.time()
                for _ in range(3):
                    await unavailable(store.look_up(key(), NODES))
                assert loop.time() - start < 10 * HASTY_S
                assert not store.available
                start = loop.time()
                for _ in range(1000):
                    await unavailable(store.look_up(key(), NODES))
                assert loop.time() - start < 10 * HASTY_S
                server.go_on()
                await back(store)
                assert await result(store) is None

    async def test_a_connection_that_is_given_up_cancels_none_of_those_who_wait_for_it(
        self,
    ) -> None:
        """The server is there and says nothing, as a frozen one."""
        with socket.create_server(("127.0.0.1", 0)) as silent:
            url = f"redis://:secret@127.0.0.1:{silent.getsockname()[1]}/0"
            store = RedisStore(Server(url), key_prefix="test", nodes_max=100, changes_max=100)
            waiting = [asyncio.create_task(store.versions(TENANT, [READ])) for _ in range(2)]
            accepted, _ = await asyncio.to_thread(silent.accept)
            await store.disconnect()
            for each in waiting:
                with pytest.raises(StoreLostError, match="given up"):
                    await each
            await store.close()
            accepted.close()

    async def test_a_write_that_was_missed_is_made_up_for(self) -> None:
        with running_redis(aof=True) as server:
            async with opened(server, timeout_s=HASTY_S) as store, opened(server) as other:
                assert await put(other)
                assert await result(store) == "0"
                server.stop()
                await unavailable(write(store))
                await unavailable(store.look_up(key(), NODES))
                server.go_on()
                await back(store)
                assert await result(store) is None
                assert await result(other) is None

    async def test_a_server_that_is_away_at_the_start_stops_nobody(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        with running_redis() as server:
            server.kill()
            async with opened(server) as store:
                assert not store.available
                assert f"redis://127.0.0.1:{server.port}/0 is down" in caplog.text
                assert "Connect call failed" in caplog.text
                await unavailable(store.look_up(key(), NODES))
                server.start()
                await back(store)
                assert await result(store) is None

    async def test_an_idle_connection_that_the_server_closes_is_made_anew(
        self, redis_server: RedisServer
    ) -> None:
        async with opened(redis_server) as store:
            assert await put(store)
            redis_server.ask("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            await asyncio.sleep(0.05)  # The end of the connection arrives.
            assert await result(store) == "0"
            assert store.failures == 0

    async def test_a_watcher_is_told_that_the_server_is_gone(self) -> None:
        with running_redis() as server:
            async with opened(server) as store, aclosing(store.watch(TENANT, None)) as changes:
                waiting = asyncio.ensure_future(anext(changes))
                await asyncio.wait([waiting], timeout=0.05)
                server.kill()
                await unavailable(waiting)

    async def test_a_watcher_is_told_of_a_gap_after_a_restart(self) -> None:
        with running_redis() as server:
            async with opened(server) as store:
                position = await write(store)
                server.kill()
                server.start()
                await unavailable(write(store))
                await back(store)
                async with aclosing(store.watch(TENANT, position)) as changes:
                    gap = await anext(changes)
                    assert gap.change is None
                    assert gap.position > position

    async def test_a_waiting_watcher_is_told_when_everything_became_stale(
        self, redis_server: RedisServer
    ) -> None:
        store = RedisStore(
            Server(redis_server.url), key_prefix="test", nodes_max=100, changes_max=100
        )
        position = await write(store)
        async with aclosing(store.watch(TENANT, position)) as changes:
            waiting = asyncio.ensure_future(anext(changes))
            await asyncio.wait([waiting], timeout=0.05)
            await store.advance_epoch()
            gap = await waiting
            assert gap.change is None
            assert gap.position > position
            assert (await write(store)) == (await anext(changes)).position
        await store.close()


class TestTwoServers:
    async def test_each_sees_what_the_other_does(self, redis_server: RedisServer) -> None:
        async with opened(redis_server) as one, opened(redis_server) as two:
            assert await put(one)
            assert await result(two) == "0"
            start = (await two.look_up(key(), NODES)).snapshot
            position = await write(two)
            assert await result(one) is None
            async with aclosing(one.watch(TENANT, start)) as changes:
                assert (await anext(changes)).position == position

    async def test_prefixes_share_nothing(self, redis_server: RedisServer) -> None:
        stores = [
            RedisStore(Server(redis_server.url), key_prefix=prefix, nodes_max=9, changes_max=9)
            for prefix in ("one", "two")
        ]
        assert await put(stores[0])
        assert await result(stores[1]) is None
        await stores[1].advance_epoch()
        assert await result(stores[0]) == "0"
        for store in stores:
            await store.close()
