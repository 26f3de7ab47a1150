"""The calls of the tool cache on connections that fail, hang or end."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from typing import Any

import grpc.aio
import pytest

import precall
from precall import Client, ClientOptions
from precall.testing import FakeServer
from precall.v1 import tool_cache_pb2
from tests.clients.helpers import FAST

WEATHER = ("weather", "1", {"city": "Paris"})


async def first_of(client: Client) -> precall.CacheChange:
    return await anext(client.cache.watch())


CALLS: dict[str, Callable[[Client], Any]] = {
    "get": lambda client: client.cache.get(*WEATHER),
    "put": lambda client: client.cache.put(*WEATHER, 1, ttl_s=60),
    "resource_versions": lambda client: client.cache.resource_versions(["file:/a"]),
    "invalidate": lambda client: client.cache.invalidate(everything=True),
    "stats": lambda client: client.cache.stats(),
    "watch": first_of,
}
every_call = pytest.mark.parametrize("call", CALLS.values(), ids=list(CALLS))


@every_call
async def test_a_server_without_a_cache_says_so(call: Callable[[Client], Any]) -> None:
    async with FakeServer(capabilities=[]) as server, Client(server.address) as client:
        with pytest.raises(precall.NotServedError, match="TOOL_CACHE"):
            await call(client)


@every_call
async def test_a_missing_server_is_reported(call: Callable[[Client], Any]) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    async with Client(address) as client:
        with pytest.raises(precall.ConnectError, match="is `precall serve` running"):
            await call(client)


@every_call
async def test_a_silent_server_is_given_up(call: Callable[[Client], Any]) -> None:
    options = ClientOptions(answer_timeout_s=0.1)
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        async with Client(address, options=options) as client:
            with pytest.raises(precall.ConnectError, match=r"did not answer within 0.1 s"):
                await call(client)


@every_call
async def test_closing_and_cancelling_end_a_call(call: Callable[[Client], Any]) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        client = Client(f"127.0.0.1:{silent.getsockname()[1]}")
        closed = asyncio.ensure_future(call(client))
        await asyncio.sleep(0.01)
        await client.close()
        with pytest.raises(precall.ConnectError, match="the client was closed"):
            await closed
        cancelled = asyncio.ensure_future(call(client))
        await asyncio.sleep(0.01)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        await client.close()


@asynccontextmanager
async def watched_by(behave: Callable[[Any, Any], Any]) -> AsyncGenerator[Client]:
    """A client of a server whose Watch behaves in this way."""
    server = grpc.aio.server()
    handler = grpc.unary_stream_rpc_method_handler(
        behave,
        request_deserializer=tool_cache_pb2.ToolCacheServiceWatchRequest.FromString,
        response_serializer=tool_cache_pb2.ToolCacheServiceWatchResponse.SerializeToString,
    )
    name = "precall.v1.ToolCacheService"
    server.add_registered_method_handlers(name, {"Watch": handler})
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(name, {"Watch": handler}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with Client(f"127.0.0.1:{port}", options=FAST) as client:
            yield client
    finally:
        await server.stop(None)


async def test_a_watch_that_breaks_raises() -> None:
    async def one_then_nothing(_: Any, context: Any) -> AsyncIterator[Any]:
        yield tool_cache_pb2.ToolCacheServiceWatchResponse(position=1)  # of a newer server
        gap = tool_cache_pb2.CacheWatchGap()
        yield tool_cache_pb2.ToolCacheServiceWatchResponse(position=7, gap=gap)

    async def one_then_a_failure(_: Any, context: Any) -> AsyncIterator[Any]:
        async for message in one_then_nothing(_, context):
            yield message
        await context.abort(grpc.StatusCode.UNAVAILABLE, "gone")

    for behaviour in (one_then_nothing, one_then_a_failure):
        async with watched_by(behaviour) as client:
            changes = client.cache.watch()
            gap = await anext(changes)
            assert isinstance(gap, precall.CacheWatchGap)
            assert gap.position == 7
            with pytest.raises(precall.ConnectionLostError):
                await anext(changes)


async def test_a_watch_that_waits_is_told_that_the_server_is_gone() -> None:
    async with FakeServer() as server, Client(server.address, options=FAST) as client:
        watching = asyncio.ensure_future(first_of(client))
        await asyncio.sleep(0.1)
        await server.stop()
        with pytest.raises(precall.ConnectionLostError):
            await watching


async def test_leaving_a_watch_ends_it_on_the_server() -> None:
    ended = asyncio.Semaphore(0)

    async def one_and_wait(_: Any, context: Any) -> AsyncIterator[Any]:
        try:
            gap = tool_cache_pb2.CacheWatchGap()
            yield tool_cache_pb2.ToolCacheServiceWatchResponse(position=1, gap=gap)
            await asyncio.Event().wait()
        finally:
            ended.release()

    async with watched_by(one_and_wait) as client, asyncio.timeout(5):
        async for _ in client.cache.watch():
            break
        await ended.acquire()
        changes = client.cache.watch()
        await anext(changes)
        await changes.aclose()
        await ended.acquire()

        async def read_on() -> None:
            async for _ in client.cache.watch():
                reading.set()

        reading = asyncio.Event()
        task = asyncio.ensure_future(read_on())
        await reading.wait()
        task.cancel()
        await ended.acquire()
        with pytest.raises(asyncio.CancelledError):
            await task
