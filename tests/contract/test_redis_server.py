"""Losses, evictions and refusals of a Redis server, and how it is reached."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import aclosing
from pathlib import Path
from typing import NoReturn, cast

import pytest
from redis.asyncio.connection import Connection

from precall_service.cache.redis import connection, scripts
from precall_service.cache.redis.connection import Channel, Server, StoreUrlError, pack
from precall_service.cache.redis.store import RedisStore
from precall_service.cache.remote import StoreLostError
from tests.support.redis_server import RedisServer, running_redis
from tests.support.redis_store import (
    NODES,
    READ,
    TENANT,
    WRITTEN,
    back,
    key,
    opened,
    put,
    result,
    unavailable,
    write,
)


class TestLosses:
    """What Redis loses or evicts may make more entries stale, but never fewer."""

    @pytest.mark.parametrize("lost", ["versions", "log", "index", "sizes", "server", "epochs"])
    async def test_a_lost_key_serves_nothing_stale(
        self, redis_server: RedisServer, lost: str
    ) -> None:
        async with opened(redis_server) as store:
            snapshot = (await store.look_up(key(), NODES)).snapshot
            assert await put(store)
            position = await write(store)
            name = f"test:1:{lost}" if lost in ("server", "epochs") else f"test:1:ann:{lost}"
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
            redis_server.ask("DEL", "test:1:ann:log")
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
            assert redis_server.ask("DEL", "test:1:ann:pending", "test:1:ann:writes") == 2
            assert await result(store) == "0"
            redis_server.pass_time(6.0)
            assert await result(store) is None
            assert await put(store, "1")
            assert await result(store) == "1"

    async def test_evicted_entries_are_counted(self, redis_server: RedisServer) -> None:
        async with opened(redis_server) as store:
            assert await put(store)
            redis_server.ask("DEL", f"test:1:ann:e:{key().digest.hex()}")
            size = await store.size(TENANT)
            assert (size.entries, size.bytes, size.evictions) == (0, 0, 1)

    async def test_expired_entries_leave_the_statistics(self, redis_server: RedisServer) -> None:
        async with opened(redis_server) as store:
            assert await put(store)
            redis_server.pass_time(1000.0)
            size = await store.size(TENANT)
            assert (size.entries, size.bytes, size.evictions) == (0, 0, 0)

    async def test_an_entry_that_cannot_be_read_is_none(self, redis_server: RedisServer) -> None:
        async with opened(redis_server) as store:
            assert await put(store)
            redis_server.ask("HSET", f"test:1:ann:e:{key().digest.hex()}", "value", "x")
            assert await result(store) is None
            assert await put(store)
            assert await result(store) == "0"

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
            redis_server.ask("HSET", "test:1:server", "high", str(ahead))
            redis_server.ask("DEL", "test:1:ann:versions")
            position = await write(store)
            assert position > ahead
            redis_server.ask("DEL", "test:1:ann:versions")
            assert (again := await write(store)) > position
            redis_server.ask("HDEL", "test:1:server", "epoch")
            assert (await store.look_up(key(), NODES)).snapshot >= again
            redis_server.ask("DEL", "test:1:ann:versions", "test:1:server")
            assert (await store.look_up(key(), NODES)).snapshot > 0

    async def test_everything_is_kept_for_a_bounded_time(self, redis_server: RedisServer) -> None:
        async with opened(redis_server) as store:
            await store.announce(TENANT, "w", READ.nodes, WRITTEN, 5.0)
            assert await put(store)
            names = cast("list[str]", redis_server.ask("KEYS", "test:1:ann:*"))
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
