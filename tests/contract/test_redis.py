"""The Redis store with its guard, while the server is killed, restarted, stopped or unreachable."""

from __future__ import annotations

import asyncio
import itertools
import random
import shutil
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from pathlib import Path
from typing import NoReturn, cast

import pytest
from redis.asyncio.connection import Connection

from precall_service.cache.base import (
    CacheKey,
    CacheStore,
    Change,
    ChangeKind,
    Conditions,
    Dependency,
    Origin,
    Stored,
    StoreUnavailableError,
    Value,
)
from precall_service.cache.guard import GuardedStore, StoreLostError
from precall_service.cache.redis import connection, scripts
from precall_service.cache.redis.connection import Channel, Server, StoreUrlError, pack
from precall_service.cache.redis.opening import redis_store
from precall_service.cache.redis.store import RedisStore
from precall_service.domain.tools import CacheScope
from precall_service.loop_clock import LoopClock
from tests.support.redis_server import RedisServer, running_redis

TENANT = "ann"
NODES = ["a:"]
READ = Dependency("file:/a", ("=file:/a",))
WRITTEN = Change(kind=ChangeKind.RESOURCE, names=("file:/a",))
PATIENT_S = 5.0
"""A timeout that no working server exceeds, however busy this machine is."""
HASTY_S = 0.05


def key(tenant: str = TENANT, number: int = 0) -> CacheKey:
    return CacheKey(
        tenant=tenant,
        scope=CacheScope.TENANT,
        conversation_id="",
        tool_name="look",
        tool_version="1",
        arguments_json=f'{{"n":{number}}}',
        digest=number.to_bytes(32, "big"),
    )


def value(result: str = "0") -> Value:
    return Value(
        result_json=result,
        content="",
        execution_id="",
        origin=Origin.COMMITTED,
        cost_s=1.0,
        ttl_s=600.0,
    )


@asynccontextmanager
async def opened(
    server: RedisServer | str, *, timeout_s: float = PATIENT_S
) -> AsyncGenerator[GuardedStore]:
    store = redis_store(
        server if isinstance(server, str) else server.url,
        LoopClock(),
        key_prefix="test",
        timeout_s=timeout_s,
        nodes_max=1000,
        changes_max=1000,
    )
    async with store:
        yield store


async def put(store: CacheStore, result: str = "0", *, snapshot: int | None = None) -> bool:
    conditions = Conditions(snapshot=snapshot)
    return isinstance(await store.put(key(), value(result), NODES, [READ], conditions), Stored)


async def result(store: CacheStore) -> str | None:
    entry = (await store.look_up(key(), NODES)).entry
    return None if entry is None else entry.value.result_json


async def write(store: CacheStore) -> int:
    return await store.advance(TENANT, READ.nodes, WRITTEN)


async def until(holds: Callable[[], bool]) -> None:
    """Waits until something holds; the timeout of the test bounds it."""
    while not holds():  # noqa: ASYNC110 - nothing tells of what is waited for
        await asyncio.sleep(0.005)


async def back(store: GuardedStore) -> None:
    await until(lambda: store.available)


async def unavailable(operation: Awaitable[object]) -> str:
    with pytest.raises(StoreUnavailableError) as caught:
        await operation
    return str(caught.value)


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


class TestLosses:
    """What Redis loses or evicts makes more stale, and never less."""

    @pytest.mark.parametrize("lost", ["versions", "log", "index", "sizes", "server", "epochs"])
    async def test_a_lost_key_serves_nothing_stale(
        self, redis_server: RedisServer, lost: str
    ) -> None:
        async with opened(redis_server) as store:
            snapshot = (await store.look_up(key(), NODES)).snapshot
            assert await put(store)
            position = await write(store)
            name = f"test:{lost}" if lost in ("server", "epochs") else f"test:{{ann}}:{lost}"
            assert redis_server.ask("DEL", name) == 1
            assert await result(store) is None
            assert not await put(store, snapshot=snapshot)
            assert await write(store) > position
            assert await put(store, "1")
            assert await result(store) == "1"
            assert (await store.size(TENANT)).entries == 1
            async with aclosing(store.watch(TENANT, snapshot)) as changes:
                assert (await anext(changes)).position > snapshot

    async def test_a_watcher_is_told_that_the_log_is_lost(self, redis_server: RedisServer) -> None:
        async with opened(redis_server) as store:
            start = await write(store)
            position = await write(store)
            redis_server.ask("DEL", "test:{ann}:log")
            async with aclosing(store.watch(TENANT, start)) as changes:
                gap = await anext(changes)
                assert (gap.position, gap.change) == (position, None)
                position = await write(store)
                assert (await anext(changes)).position == position

    async def test_a_lost_announcement_makes_everything_stale_when_it_is_overdue(
        self, redis_server: RedisServer
    ) -> None:
        async with opened(redis_server) as store:
            await store.announce(TENANT, "w", READ.nodes, WRITTEN, 5.0)
            assert await put(store)
            assert redis_server.ask("DEL", "test:{ann}:pending", "test:{ann}:writes") == 2
            assert await result(store) == "0"
            redis_server.pass_time(6.0)
            assert await result(store) is None
            assert await put(store, "1")
            assert await result(store) == "1"

    async def test_evicted_entries_are_counted(self, redis_server: RedisServer) -> None:
        async with opened(redis_server) as store:
            assert await put(store)
            redis_server.ask("DEL", f"test:{{ann}}:e:{key().digest.hex()}")
            size = await store.size(TENANT)
            assert (size.entries, size.bytes, size.evictions) == (0, 0, 1)

    async def test_expired_entries_leave_the_statistics(self, redis_server: RedisServer) -> None:
        async with opened(redis_server) as store:
            assert await put(store)
            redis_server.pass_time(1000.0)
            size = await store.size(TENANT)
            assert (size.entries, size.bytes, size.evictions) == (0, 0, 0)

    async def test_scripts_that_the_server_has_forgotten_are_sent_again(
        self, redis_server: RedisServer
    ) -> None:
        async with opened(redis_server) as store:
            assert await put(store)
            redis_server.ask("SCRIPT", "FLUSH")
            assert await result(store) == "0"
            await write(store)
            assert await result(store) is None
            assert store.failures == 0

    async def test_a_clock_that_went_back_makes_no_position_twice(
        self, redis_server: RedisServer
    ) -> None:
        async with opened(redis_server) as store:
            ahead = (await store.look_up(key(), NODES)).snapshot + 10**12
            redis_server.ask("HSET", "test:server", "high", str(ahead))
            redis_server.ask("DEL", "test:{ann}:versions")
            position = await write(store)
            assert position > ahead
            redis_server.ask("DEL", "test:{ann}:versions")
            assert (again := await write(store)) > position
            redis_server.ask("HDEL", "test:server", "epoch")
            assert (await store.look_up(key(), NODES)).snapshot >= again
            redis_server.ask("DEL", "test:{ann}:versions", "test:server")
            assert (await store.look_up(key(), NODES)).snapshot > 0

    async def test_everything_is_kept_for_a_bounded_time(self, redis_server: RedisServer) -> None:
        async with opened(redis_server) as store:
            await store.announce(TENANT, "w", READ.nodes, WRITTEN, 5.0)
            assert await put(store)
            names = cast("list[str]", redis_server.ask("KEYS", "test:{*"))
            assert len(names) == 7
            kept_ms = [cast("int", redis_server.ask("PTTL", name)) for name in names]
            assert min(kept_ms) > 0

    async def test_a_demoted_server_is_left(self, redis_server: RedisServer) -> None:
        with running_redis() as server:
            async with opened(server) as store:
                await write(store)
                server.ask("REPLICAOF", "127.0.0.1", "1")
                assert "read only" in await unavailable(put(store))
                assert not store.available, "one answer is enough"
                server.ask("REPLICAOF", "NO", "ONE")
                await back(store)
                await write(store)


class TestUrl:
    @pytest.mark.parametrize(
        ("url", "problem"),
        [
            ("", "must begin with redis://"),
            ("http://host:6379", "must begin with redis://"),
            ("redis://", "must name a host"),
            ("redis://host:port", "malformed"),
            ("redis://host:99999", "malformed"),
            ("redis://[::1", "malformed"),
            ("redis://host/name", "must be a number"),
            ("redis://host?db=x", "Invalid value for 'db'"),
            ("redis://host?colour=red", "colour"),
            ("unix://", "must name a socket"),
            ("redis://ann:sec/ret@host:6379", "malformed"),
        ],
    )
    def test_a_malformed_url_is_refused_in_words(self, url: str, problem: str) -> None:
        with pytest.raises(StoreUrlError) as caught:
            Server(url)
        assert problem in str(caught.value)
        assert "sec" not in str(caught.value)

    @pytest.mark.parametrize(
        ("url", "name"),
        [
            ("redis://ann:secret@host/2", "redis://host:6379/2"),
            ("rediss://:secret@host:7000?ssl_cert_reqs=none", "rediss://host:7000"),
            ("redis://[::1]:1", "redis://[::1]:1"),
            ("unix://ann:secret@/run/redis.sock?db=1", "unix:///run/redis.sock"),
        ],
    )
    def test_a_name_holds_no_credentials(self, url: str, name: str) -> None:
        server = Server(url)
        assert server.name == name
        assert server.secure == name.startswith("rediss")

    async def test_a_password_is_needed_and_given(self, caplog: pytest.LogCaptureFixture) -> None:
        with running_redis(options=("--requirepass", "secret")) as server:
            for credentials in ("", ":wrong@", "ann:wrong@"):
                caplog.clear()
                url = server.url.replace("127", f"{credentials}127")
                async with opened(url) as store:
                    assert not store.available
                    assert "refuses the user name or the password" in caplog.text
                    assert "wrong" not in caplog.text.replace("WRONGPASS", "")
            async with opened(server.url.replace("127", ":secret@127")) as store:
                await write(store)
                assert await put(store)
                async with aclosing(store.watch(TENANT, 0)) as changes:
                    await anext(changes)

    async def test_a_host_without_a_server_is_named(self, caplog: pytest.LogCaptureFixture) -> None:
        async with opened("redis://nowhere.invalid:6379/0") as store:
            assert not store.available
            assert "redis://nowhere.invalid:6379/0 is down" in caplog.text

    async def test_a_server_that_speaks_no_tls_is_told(
        self,
        redis_server: RedisServer,
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(connection, "CONNECT_TIMEOUT_S", 0.2)
        async with opened(redis_server.url.replace("redis", "rediss", 1)) as store:
            assert not store.available
            assert "rediss://" in caplog.text

    @pytest.mark.parametrize(
        ("options", "verified"), [("", True), ("?ssl_cert_reqs=none", False)], ids=["", "none"]
    )
    async def test_tls_is_used_with_the_options_of_the_url(
        self, monkeypatch: pytest.MonkeyPatch, options: str, verified: bool
    ) -> None:
        asked: dict[str, object] = {}

        async def refuse(**arguments: object) -> NoReturn:
            asked.update(arguments)
            raise ConnectionRefusedError

        monkeypatch.setattr(asyncio, "open_connection", refuse)
        async with opened(f"rediss://host:7000{options}") as store:
            assert not store.available
        context = asked["ssl"]
        assert isinstance(context, ssl.SSLContext)
        assert (asked["host"], asked["port"]) == ("host", 7000)
        assert (context.verify_mode is ssl.CERT_REQUIRED) == verified
        assert context.check_hostname == verified

    async def test_a_socket_can_be_used(self, tmp_path: Path) -> None:
        path = tmp_path / "redis.sock"
        with running_redis(options=("--unixsocket", str(path))):
            async with opened(f"unix://{path}?db=1") as store:
                assert await put(store)
                assert await result(store) == "0"

    @pytest.mark.parametrize("prefix", ["", "a{b}", "x" * 65, "a b"])
    def test_a_prefix_is_checked(self, prefix: str) -> None:
        with pytest.raises(ValueError, match="prefix"):
            RedisStore(Server("redis://host"), key_prefix=prefix, nodes_max=1, changes_max=1)


async def test_a_channel_never_connects_anew(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel = Channel(await Server(redis_server.url).connect())
    assert await channel.call(pack("PING")) == b"PONG"
    with monkeypatch.context() as patch:
        patch.setattr(Connection, "is_connected", False)
        with pytest.raises(StoreLostError):
            await channel.call(pack("PING"))
    assert channel.lost
    await channel.close()


def test_scripts_have_different_names() -> None:
    assert len({script.sha for script in scripts.ALL}) == len(scripts.ALL)
