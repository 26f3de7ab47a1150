"""A client: its address, its metadata, its connection, and its event loop."""

from __future__ import annotations

import asyncio
import socket
import time
from contextlib import closing
from typing import Any

import grpc.aio
import pytest

import precall
from precall import Client, ClientOptions, EngineState, Message, ServerLimits
from precall._options import channel_options
from precall.testing import FakeServer, Say


async def test_a_missing_server_is_reported_with_its_address() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    async with Client(address) as client:
        for attempt in (client.conversation().open(), client.server_info()):
            with pytest.raises(precall.ConnectError, match="is `precall serve` running") as caught:
                await attempt
            assert address in caught.value.message


async def test_a_server_that_is_not_precall_is_reported() -> None:
    other = grpc.aio.server()
    port = other.add_insecure_port("127.0.0.1:0")
    await other.start()
    async with Client(f"127.0.0.1:{port}") as client:
        for attempt in (client.conversation().open(), client.server_info()):
            with pytest.raises(precall.ConnectError, match="is not a precall server"):
                await attempt
    await other.stop(None)


async def test_a_silent_server_is_given_up() -> None:
    options = ClientOptions(open_timeout_s=0.2, answer_timeout_s=0.2)
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        async with Client(address, options=options) as client:
            started_at = time.monotonic()
            for attempt in (client.conversation().open(), client.server_info()):
                with pytest.raises(precall.ConnectError, match=r"did not answer within 0.2 s"):
                    await attempt
            assert time.monotonic() - started_at < 3


@pytest.mark.parametrize(
    "address",
    ["", "http://localhost:50151", "grpc://localhost:1", "localhost", "localhost:", "a:1/", "::1"],
)
def test_invalid_addresses_are_refused(address: str) -> None:
    with pytest.raises(ValueError, match="host:port"):
        Client(address)


@pytest.mark.parametrize("address", ["a-b.c:1", "127.0.0.1:1", "[::1]:1", "unix:/x", "dns:///a:1"])
def test_addresses_of_grpc_are_accepted(address: str) -> None:
    assert Client(address).address == address


@pytest.mark.parametrize(
    ("metadata", "tenant", "says"),
    [
        ({"two words": "x"}, "", "key 'two words' must"),
        ({"token-bin": "x"}, "", "key 'token-bin' must"),
        ({"token": 3}, "", "'token' must be an ASCII string, not int"),
        ({"token": "\n"}, "", "'token' must be an ASCII string"),
        ({}, "Zürich", "tenant 'Zürich' is not 1 to 64 of"),
    ],
)
def test_metadata_that_cannot_be_sent_is_refused(
    metadata: dict[str, Any], tenant: str, says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        Client("localhost:1", metadata=metadata, tenant=tenant)


async def test_keys_of_metadata_are_sent_in_lower_case() -> None:
    async with (
        FakeServer() as server,
        Client(server.address, metadata={"Authorization": "x"}) as client,
    ):
        await client.server_info()
        await client.conversation().open()
    assert server.metadata[0]["authorization"] == "x"


@pytest.mark.parametrize(
    ("said", "says"),
    [
        (Message("system", "Be brief."), "not 'system'; instructions go into system_prompt"),  # pyright: ignore[reportArgumentType]
        ({"role": "user"}, "a list of precall.Message, not of dict"),
    ],
)
def test_a_history_holds_only_messages_of_a_history(said: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Client("localhost:1").conversation(history=[said])


async def test_server_info() -> None:
    limits = ServerLimits(frame_bytes_max=7, tool_timeout_max_s=1.5)
    async with FakeServer(model="small", limits=limits) as server, Client(server.address) as client:
        info = await client.server_info()
    assert (info.model, info.engine, info.engine_state) == ("small", "fake", EngineState.READY)
    assert (info.limits, info.version) == (limits, "0.0.0")
    assert info.uptime_s >= 0


async def test_closing_the_client_closes_its_conversations() -> None:
    async with FakeServer() as server:
        client = Client(server.address)
        kept = await client.conversation().open()
        await client.close()
        with pytest.raises(precall.ConversationClosedError):
            _ = kept.id
        async with client.conversation():  # and it can be used again
            pass
        await client.close()
    assert [frame.WhichOneof("frame") for frame in server.frames] == ["open", "close"] * 2


async def test_closing_the_client_ends_what_is_in_flight_with_an_error() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        client = Client(f"127.0.0.1:{silent.getsockname()[1]}")
        for begin in (lambda: client.conversation().open(), client.server_info):
            attempt = asyncio.ensure_future(begin())
            await asyncio.sleep(0)
            await client.close()
            with pytest.raises(precall.ConnectError, match="the client was closed"):
                await attempt


async def test_cancelling_an_opening_raises_a_cancellation() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        async with Client(f"127.0.0.1:{silent.getsockname()[1]}") as client:
            for begin in (lambda: client.conversation().open(), client.server_info):
                attempt = asyncio.ensure_future(begin())
                await asyncio.sleep(0)
                attempt.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await attempt


def test_a_client_goes_on_in_another_loop_once_its_own_is_closed() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    client = Client(address)

    async def ask() -> None:
        with pytest.raises(precall.ConnectError, match="cannot reach"):
            await client.server_info()

    asyncio.run(ask())
    asyncio.run(ask())
    asyncio.run(client.close())


async def test_a_client_belongs_to_one_running_loop() -> None:
    async with (
        FakeServer([Say("here")]) as server,
        Client(server.address) as client,
        client.conversation() as conversation,
    ):
        for begin in (client.server_info, client.conversation().open, client.close):
            with pytest.raises(RuntimeError, match="make one client per loop"):
                await asyncio.to_thread(asyncio.run, begin())
        with pytest.raises(RuntimeError, match="conversation belongs to another event loop"):
            await asyncio.to_thread(asyncio.run, conversation.ask("there?"))
        assert str(await conversation.ask("here?")) == "here"


def test_a_server_that_is_back_is_found_within_seconds() -> None:
    options = dict(channel_options(ClientOptions(), "server:1"))
    assert options["grpc.initial_reconnect_backoff_ms"] == 200
    assert options["grpc.max_reconnect_backoff_ms"] == 2000
