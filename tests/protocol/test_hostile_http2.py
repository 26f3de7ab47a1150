"""Clients that speak HTTP/2 by hand: what the server takes in, frees, and answers others meanwhile.

The clock of the server stands still, unless a test advances it, so that no wait ends by itself.
"""

from __future__ import annotations

import asyncio
import gc
import struct
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager

import pytest

from precall.v1 import agent_pb2
from precall_service.transport import abandoned, server, statuses
from tests.support import http2
from tests.support.http2 import CONVERSE, OPENING, Connection, message
from tests.support.scripts import always, says
from tests.support.stream import (
    WAIT_S,
    RunningServer,
    eventually,
    health,
    running_server,
)

HELLO = always(says("Hello."))
SLOTS = 4
FRAME = 128 << 10
WIRE = 2 * FRAME
LOOKAHEAD = server._LOOKAHEAD_BYTES  # pyright: ignore[reportPrivateUsage]
SMALL = {"frame_bytes_max": FRAME, "arrivals_max": SLOTS}
METHODS = (
    CONVERSE,
    "/precall.v1.AgentService/GetServerInfo",
    "/precall.v1.ToolCacheService/Put",
    "/precall.v1.ToolCacheService/Watch",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
)


@asynccontextmanager
async def attacker(there: RunningServer, *, read_window: int = 0) -> AsyncGenerator[Connection]:
    connection = await Connection.connect(there.service.address, read_window=read_window)
    try:
        yield connection
    finally:
        connection.close()


async def pour(connection: Connection, streams: Iterable[int], data: bytes) -> None:
    """Sends the data on each stream, until the server takes no more on any."""
    while True:
        for number in streams:
            connection.send(number, data[connection.streams[number].sent :])
        if not await connection.changed(0.3):
            return


def ended(connection: Connection, streams: Iterable[int]) -> int:
    return sum(connection.streams[number].ended for number in streams)


async def lives(there: RunningServer, tenant: str = "victim") -> None:
    """Checks that another tenant is served, and that probes are answered."""
    stream = there.stream(("precall-tenant", tenant))
    await stream.open()
    await stream.ask()
    await stream.close()
    assert await health(there.channel, "") == "SERVING"


@pytest.mark.parametrize("path", METHODS)
async def test_only_the_start_of_messages_is_taken_in_unless_they_have_a_slot(path: str) -> None:
    unfinished = message(b"\0" * (WIRE - 1), announced=WIRE)
    async with running_server(HELLO, server=SMALL) as there, attacker(there) as connection:
        streams = [connection.open(path) for _ in range(5 * SLOTS)]
        await pour(connection, streams, unfinished)
        sent = sorted((connection.streams[number].sent for number in streams), reverse=True)
        assert sent[:SLOTS] == [len(unfinished)] * SLOTS
        assert sent[SLOTS:] == [LOOKAHEAD] * 4 * SLOTS


async def test_unfinished_probes_take_slots_of_their_own() -> None:
    unfinished = message(b"\0" * (WIRE - 1), announced=WIRE)
    async with running_server(HELLO, server=SMALL) as there, attacker(there) as connection:
        streams = [connection.open("/grpc.health.v1.Health/Check") for _ in range(40)]
        await pour(connection, streams, unfinished)
        taken = [connection.streams[number].sent for number in streams]
        assert taken.count(len(unfinished)) == 16
        stream = there.stream()
        await stream.open()
        await stream.close()
        probe = asyncio.create_task(health(there.channel, ""))
        calls = there.service.server.calls
        for left in (25, 9):  # the attacker has the probe's address: it waits behind the 24 others
            await eventually(lambda left=left: calls.probes_waiting == left)
            there.clock.advance(0.1)
        assert await probe == "SERVING"


async def test_others_are_served_while_one_tenant_sends_halves() -> None:
    unfinished = message(b"\0" * (WIRE - 1), announced=WIRE)
    async with running_server(HELLO, server=SMALL) as there, attacker(there) as connection:
        streams = [connection.open() for _ in range(5 * SLOTS)]
        await pour(connection, streams, unfinished)
        victim = asyncio.create_task(lives(there))
        await eventually(lambda: there.service.server.reception.arrivals.waiting > 4 * SLOTS)
        there.clock.advance(1.0)  # the patience that others have with a slow message
        await victim


async def test_messages_that_are_never_finished_are_given_up() -> None:
    unfinished = message(b"\0" * (WIRE - 1), announced=WIRE)
    async with running_server(HELLO, server=SMALL) as there, attacker(there) as connection:
        streams = [connection.open() for _ in range(3 * SLOTS)]
        await pour(connection, streams, unfinished)
        while ended(connection, streams) < len(streams):
            there.clock.advance(30.0)
            assert await connection.changed()
        await there.nothing_is_left()


async def test_a_message_over_the_limit_ends_its_call_before_it_is_sent() -> None:
    async with running_server(HELLO, server=SMALL) as there, attacker(there) as connection:
        stream = connection.open()
        connection.send(stream, message(b"", announced=WIRE + 1))
        while not ended(connection, [stream]):
            assert await connection.changed()
        await lives(there)


async def test_calls_that_send_nothing_are_given_up() -> None:
    async with running_server(HELLO, server=SMALL) as there, attacker(there) as connection:
        streams = [connection.open(path) for path in METHODS for _ in range(3)]
        await eventually(lambda: there.service.server.calls.in_flight == len(streams))
        while ended(connection, streams) < len(streams):
            there.clock.advance(30.0)
            await connection.changed(0.3)
        await there.nothing_is_left()


@pytest.mark.parametrize("opened", [False, True], ids=["the handshake's answer", "an answer"])
async def test_calls_whose_clients_read_nothing_are_freed(
    opened: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even a status can be sent, since it would come after what is not read."""
    monkeypatch.setattr(statuses, "STATUS_UNREAD_S", 0.05)
    monkeypatch.setattr(abandoned, "_SEARCH_DELAY_S", 0.05)
    path = CONVERSE if opened else "/precall.v1.AgentService/GetServerInfo"
    frame = OPENING if opened else message(b"")
    async with running_server(HELLO) as there, attacker(there) as connection:
        before = len(asyncio.all_tasks())
        streams = [connection.open(path) for _ in range(50)]
        await pour(connection, streams, frame)
        await eventually(lambda: there.service.server.calls.in_flight == len(streams))
        gc.collect()
        gc.disable()  # they end when nothing refers to them, and a collection may come late
        try:
            there.clock.advance(60.0)
            await eventually(lambda: there.service.server.abandoned.ended == len(streams))
            # The last one is held until the next one comes.
            await eventually(lambda: ended(connection, streams) >= len(streams) - 1)
        finally:
            gc.enable()
        assert not connection.lost.is_set(), "its other calls are not ended"
        await there.nothing_is_left()
        await eventually(lambda: len(asyncio.all_tasks()) <= before)
        await lives(there)


async def test_a_flood_of_calls_that_are_reset_at_once_leaves_nothing() -> None:
    async with running_server(HELLO) as there, attacker(there) as connection:
        for _ in range(20):
            for _ in range(100):
                stream = connection.open()
                connection.send(stream, OPENING)
                connection.reset(stream)
            await asyncio.sleep(0)
        await lives(there)
        connection.close()
        await there.nothing_is_left()


async def test_calls_above_the_limit_of_a_connection_are_refused() -> None:
    limits = {"streams_per_connection_max": 3}
    async with running_server(HELLO, server=limits) as there, attacker(there) as connection:
        assert connection.streams_max == 3
        streams = [connection.open() for _ in range(10)]
        while ended(connection, streams) < 7 and not connection.lost.is_set():
            assert await connection.changed()
        assert there.service.server.calls.in_flight <= 3
        await lives(there)


async def test_connections_above_the_limit_are_closed() -> None:
    async with (
        running_server(HELLO, server={"connections_max": 3}) as there,
        attacker(there),
        attacker(there),
        attacker(there),
    ):
        further = await Connection.connect(there.service.address)
        async with asyncio.timeout(WAIT_S):
            await further.lost.wait()


async def test_huge_metadata_is_refused_by_its_call_alone() -> None:
    async with running_server(HELLO) as there, attacker(there) as connection:
        block = http2.header_block(CONVERSE, ("precall-tenant", "x" * 15_000))
        connection.streams[1] = http2.Stream(connection.initial_window)
        connection.frame(http2.HEADERS, 0, 1, block)
        for _ in range(40):  # 640 KB of headers in one block
            more = http2.header_block(CONVERSE, *((f"a{n}", "y" * 1000) for n in range(15)))
            connection.frame(http2.CONTINUATION, 0, 1, more[-15_000:])
            if connection.lost.is_set():
                break
            await asyncio.sleep(0)
        connection.frame(http2.CONTINUATION, http2.END_HEADERS, 1)
        await lives(there)


async def test_a_tenant_with_too_many_calls_is_refused_with_a_reason() -> None:
    async with running_server(HELLO, server={"calls_max": 6}) as there:
        streams = [await there.opened() for _ in range(3)]
        refused = there.stream()
        await refused.send("open", agent_pb2.OpenConversation())
        error = await refused.ended()
        assert error is not None
        assert (error.reason, error.retry_after_s) == ("OVERLOADED", 5.0)
        await lives(there)
        for stream in streams:
            await stream.close()


async def test_pings_settings_and_unknown_frames_cost_no_one_else() -> None:
    async with running_server(HELLO) as there, attacker(there) as connection:
        for _ in range(300):
            connection.frame(http2.PING, 0, 0, b"12345678")
            connection.frame(http2.SETTINGS, 0, 0, struct.pack(">HI", 4, 0))
            connection.frame(http2.WINDOW_UPDATE, 0, 0, struct.pack(">I", 1))
            connection.frame(99, 255, 2**31 - 1, b"?")
        await lives(there)
