"""ToolCacheService.Watch: changes in order, after a position, gaps, and how a watch ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import grpc
import grpc.aio
import pytest

from precall.v1 import tool_cache_pb2
from precall_service.app import serve
from precall_service.settings import load_settings
from tests.support.cache_service import Caller, Target, Watch, call, of_conversation
from tests.support.scripts import Pause, in_turn, says
from tests.support.stream import (
    MODEL,
    WAIT_S,
    Engines,
    RunningServer,
    StreamDriver,
    connected,
    ending,
    eventually,
    health,
    running_server,
)
from tests.support.wire import Failure

CACHE = "precall.v1.ToolCacheService"
Told = tool_cache_pb2.ToolCacheServiceWatchResponse
ALL = Target(all=tool_cache_pb2.AllEntries())


class Watcher:
    """One call of Watch."""

    def __init__(self, caller: Caller, after: int | None) -> None:
        self.call = caller.stub.Watch(Watch(after_position=after), metadata=caller.metadata)

    async def began(self) -> None:
        """Waits until the server follows the changes."""
        async with asyncio.timeout(WAIT_S):
            await self.call.initial_metadata()

    async def next(self) -> Told:
        """Waits for the next change."""
        async with asyncio.timeout(WAIT_S):
            told = await self.call.read()
        assert isinstance(told, Told)
        return told

    async def ended(self) -> Failure:
        """Reads to the end. Returns the error that the call ended with."""
        async with asyncio.timeout(WAIT_S):
            try:
                while await self.call.read() is not grpc.aio.EOF:
                    pass
            except grpc.aio.AioRpcError:
                pass
        error = await ending(self.call)
        assert error is not None
        return error


@asynccontextmanager
async def watching(caller: Caller, after: int | None = None) -> AsyncGenerator[Watcher]:
    """A watch that has begun; it is cancelled at the end of the block."""
    watcher = Watcher(caller, after)
    await watcher.began()
    yield watcher
    watcher.call.cancel()


def open_watches(server: RunningServer) -> int:
    return server.services.cache._watches.total()  # pyright: ignore[reportPrivateUsage]


async def test_changes_are_told_in_order_with_what_happened() -> None:
    async with running_server() as server:
        cache = Caller(server.channel)
        await cache.put(call("{}"))
        async with watching(cache) as watcher:
            version = await cache.put(call('{ "city" : "Rome" }'))
            at = [
                await cache.invalidate(Target(key=of_conversation("c1"))),
                await cache.invalidate(Target(resource="file:/a/*")),
                await cache.invalidate(ALL),
            ]
            stored = await watcher.next()
            assert stored.stored.key == call(), "with canonical arguments"
            assert stored.stored.entry_version == version
            told = [await watcher.next() for _ in at]
            assert [change.position for change in told] == at
            assert [change.invalidated.target for change in told] == [
                Target(key=of_conversation("c1")),
                Target(resource="file:/a/*"),
                ALL,
            ]
            positions = [change.position for change in (stored, *told)]
            assert positions == sorted(set(positions))
            assert all(change.time.seconds for change in told)


async def test_every_watcher_of_the_tenant_is_told_and_no_other() -> None:
    async with running_server() as server:
        ours, theirs = Caller(server.channel), Caller(server.channel, "other")
        async with watching(ours) as one, watching(ours) as two, watching(theirs) as other:
            await ours.put()
            assert await one.next() == await two.next()
            at = await theirs.invalidate(ALL)
            assert (await other.next()).position == at


async def test_a_watch_goes_on_after_a_position() -> None:
    async with running_server() as server:
        cache = Caller(server.channel)
        at = [await cache.invalidate(Target(tool_name=f"tool{number}")) for number in range(5)]
        async with watching(cache, at[1]) as watcher:
            for position in at[2:]:
                assert (await watcher.next()).position == position
            await cache.put()
            assert (await watcher.next()).WhichOneof("change") == "stored"


async def test_lost_changes_are_told_as_a_gap() -> None:
    async with running_server(cache={"changes_max": 16}) as server:
        cache = Caller(server.channel)
        at = [await cache.invalidate(ALL) for _ in range(20)]
        for after in (0, at[0], at[2]):
            async with watching(cache, after) as watcher:
                gap = await watcher.next()
                assert gap.WhichOneof("change") == "gap"
                assert gap.position == at[3]
                told = [(await watcher.next()).position for _ in at[4:]]
                assert told == at[4:]
        async with watching(cache, at[3]) as watcher:
            assert (await watcher.next()).position == at[4], "nothing is missing"


async def test_a_position_that_was_never_given_out_is_told_as_a_gap() -> None:
    async with running_server() as server:
        cache = Caller(server.channel)
        last = await cache.invalidate(ALL)
        for ahead in (last + 1, 2**64 - 1):
            async with watching(cache, ahead) as watcher:
                gap = await watcher.next()
                assert (gap.WhichOneof("change"), gap.position) == ("gap", last)
                last = await cache.invalidate(ALL)
                assert (await watcher.next()).position == last


@pytest.mark.parametrize(("chars", "told"), [(4085, True), (4086, False), (50_000, False)])
async def test_long_arguments_are_left_out(chars: int, told: bool) -> None:
    key = call(f'{{"text":"{"x" * chars}"}}')
    assert (len(key.arguments_json) <= 4096) is told
    async with running_server() as server:
        cache = Caller(server.channel)
        async with watching(cache) as watcher:
            await cache.put(key)
            await cache.invalidate(Target(key=key))
            seen = [
                (await watcher.next()).stored.key,
                (await watcher.next()).invalidated.target.key,
            ]
            for each in seen:
                assert each.arguments_json == (key.arguments_json if told else "")
                assert each.tool_name == "weather"


async def test_a_watch_that_is_cancelled_frees_its_place() -> None:
    async with running_server(cache={"watches_max": 1}) as server:
        cache = Caller(server.channel)
        async with watching(cache):
            await eventually(lambda: open_watches(server) == 1)
            error = await Watcher(cache, None).ended()
            assert error.code is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert (error.reason, error.metadata) == ("LIMIT_REACHED", {"limit": "1"})
        await eventually(lambda: open_watches(server) == 0)
        async with watching(cache) as watcher:
            await cache.put()
            await watcher.next()


async def test_a_watcher_that_has_nothing_to_read_stays() -> None:
    async with running_server(server={"unread_s": 5.0}) as server:
        cache = Caller(server.channel)
        async with watching(cache) as watcher:
            for _ in range(3):
                server.clock.advance(100.0)
                await cache.put()
                await watcher.next()


async def test_a_watcher_that_reads_nothing_loses_its_stream() -> None:
    long = [call(f'{{"n":{number},"text":"{"x" * 4000}"}}') for number in range(300)]
    async with (
        running_server(server={"unread_s": 5.0}) as server,
        connected(server.service.address, ("grpc.http2.bdp_probe", 0)) as small,  # small buffers
    ):
        cache = Caller(server.channel)
        async with watching(Caller(small)) as stuck, watching(cache) as reader:
            for key in long:
                await cache.put(key)
                assert (await reader.next()).stored.key == key
            async with asyncio.timeout(WAIT_S):
                while open_watches(server) == 2:
                    server.clock.advance(1.0)
                    await asyncio.sleep(0.001)
            error = await stuck.ended()
            assert error.code is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert (error.reason, error.metadata) == ("FLOW_LIMIT", {"limit_s": "5"})
            await cache.put()
            await reader.next()


async def test_a_drain_ends_watches_at_once_and_leaves_reads_and_writes_to_running_turns() -> None:
    done = asyncio.Event()
    engines = Engines(in_turn([Pause(done), *says("Done.")]))
    settings = load_settings(None, {"server": {"port": 0, "drain_s": 60.0}})
    stopped = asyncio.Event()

    async def run(address: asyncio.Future[str]) -> None:
        async with serve(
            settings, engines, model=MODEL, on_progress=lambda _stage, _fraction: None
        ) as service:
            address.set_result(service.address)
            await stopped.wait()

    address = asyncio.get_running_loop().create_future()
    async with asyncio.TaskGroup() as group:
        group.create_task(run(address))
        async with connected(await address) as channel:
            cache = Caller(channel)
            stream = StreamDriver(channel)
            await stream.open()
            await stream.start()
            await stream.expect("step_started")
            async with watching(cache) as watcher:
                stopped.set()
                for each in (watcher, Watcher(cache, None)):
                    error = await each.ended()
                    assert error.code is grpc.StatusCode.UNAVAILABLE
                    assert error.reason == "DRAINING"
                    assert error.retry_after_s is not None
            assert await health(channel, CACHE) == "NOT_SERVING"
            await cache.put()
            assert (await cache.get()).result_json == "21"
            done.set()
            assert (await stream.completed()).text == "Done."


async def test_a_tenant_cannot_take_every_watch() -> None:
    async with (
        running_server(cache={"watches_per_tenant_max": 1}) as server,
        watching(Caller(server.channel, "ann")),
    ):
        await eventually(lambda: open_watches(server) == 1)
        error = await Watcher(Caller(server.channel, "ann"), None).ended()
        assert error.reason == "LIMIT_REACHED"
        assert "this tenant has 1 open streams" in error.message
        async with watching(Caller(server.channel, "bob")):
            await eventually(lambda: open_watches(server) == 2)
