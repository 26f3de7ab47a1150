"""After any HTTP/2 frames, in any order, the server still serves others and nothing is left."""

from __future__ import annotations

import asyncio

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from precall.v1 import agent_pb2
from tests.support import http2
from tests.support.http2 import Connection, message
from tests.support.scripts import in_turn, says
from tests.support.stream import running_server

UNCHECKED = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
SMALL = {"frame_bytes_max": 16 << 10, "arrivals_max": 2, "arrivals_waiting_max": 8}
OPEN = agent_pb2.ConverseRequest(sequence=1, open=agent_pb2.OpenConversation()).SerializeToString()
PATHS = (
    http2.CONVERSE,
    "/precall.v1.AgentService/GetServerInfo",
    "/precall.v1.ToolCacheService/Watch",
    "/grpc.health.v1.Health/Watch",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    "/no/such",
)

# What a client may do, as a kind and what goes with it. Streams are named by their place.
STREAMS = st.integers(0, 5)
MOVES = st.one_of(
    st.tuples(st.just("open"), st.sampled_from(PATHS)),
    st.tuples(st.just("message"), STREAMS, st.one_of(st.just(OPEN), st.binary(max_size=64))),
    st.tuples(st.just("begun"), STREAMS, st.integers(0, 2**32 - 1), st.binary(max_size=4000)),
    st.tuples(st.just("reset"), STREAMS, st.integers(0, 2**32 - 1)),
    st.tuples(st.just("half-close"), STREAMS),
    st.tuples(st.just("window"), STREAMS, st.integers(0, 2**31 - 1)),
    st.tuples(
        st.just("frame"),
        st.integers(0, 12),
        st.integers(0, 255),
        st.integers(0, 2**31 - 1),
        st.binary(max_size=64),
    ),
    st.tuples(st.just("bytes"), st.binary(max_size=64)),
    st.tuples(st.just("wait")),
)


def make(connection: Connection, move: tuple[object, ...]) -> None:
    streams = list(connection.streams)
    match move:
        case ("open", str(path)):
            connection.open(path)
        case ("frame", int(kind), int(flags), int(number), bytes(payload)):
            connection.frame(kind, flags, number, payload)
        case ("bytes", bytes(data)):
            connection.raw(data)
        case (str(), int(place), *_) if place >= len(streams):
            pass
        case ("message", int(place), bytes(data)):
            connection.send(streams[place], message(data))
        case ("begun", int(place), int(announced), bytes(data)):
            connection.send(streams[place], message(data, announced=announced))
        case ("reset", int(place), int(code)):
            connection.reset(streams[place], code)
        case ("half-close", int(place)):
            connection.frame(http2.DATA, http2.END_STREAM, streams[place])
        case ("window", int(place), int(more)):
            payload = more.to_bytes(4, "big")
            connection.frame(http2.WINDOW_UPDATE, 0, streams[place], payload)
        case _:
            pass


@settings(max_examples=100, suppress_health_check=UNCHECKED)
@given(st.lists(MOVES, max_size=20))
async def test_any_http2(moves: list[tuple[object, ...]]) -> None:
    async with running_server(in_turn(says("Hello.")), server=SMALL) as server:
        other = server.stream(("precall-tenant", "other"))
        await other.open()
        connection = await Connection.connect(server.service.address)
        for move in moves:
            make(connection, move)
            if move == ("wait",):
                await asyncio.sleep(0)
        await other.ask()
        await other.close()
        connection.close()
        await server.nothing_is_left()
