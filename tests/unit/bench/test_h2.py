"""The reader of the stream bench counts the messages that a real server sends."""

from __future__ import annotations

import pytest

from bench.h2 import Reader
from bench.process import started
from precall.v1 import agent_pb2, content_pb2, turn_pb2

CALLS, DELTAS = 5, 40


@pytest.mark.timeout(60)
async def test_the_reader_counts_the_messages_of_every_call() -> None:
    config = {"deltas": DELTAS, "text": " word"}
    open_frame = agent_pb2.ConverseRequest(sequence=1, open=agent_pb2.OpenConversation())
    start_frame = agent_pb2.ConverseRequest(
        sequence=2,
        start_turn=turn_pb2.StartTurn(
            turn_id="turn-1", content=[content_pb2.ContentPart(text="Go on.")]
        ),
    )
    async with started("bench.arms.bare_grpc", config) as server:
        address = str(server.ready["address"])
        reader = await Reader.connect(address)
        streams = reader.open(CALLS, address, "/precall.v1.AgentService/Converse")
        for stream in streams:
            reader.send(stream, open_frame.SerializeToString())
        await reader.read(CALLS)
        for stream in streams:
            reader.send(stream, start_frame.SerializeToString())
        await reader.read(CALLS * DELTAS)
        reader.cancel(streams[0])
        reader.close()


async def test_reading_from_a_server_without_the_method_fails() -> None:
    async with started("bench.arms.bare_grpc", {"deltas": 1, "text": ""}) as server:
        address = str(server.ready["address"])
        reader = await Reader.connect(address)
        reader.open(1, address, "/precall.v1.AgentService/Other")
        with pytest.raises(ConnectionError, match="ended early"):
            await reader.read(1)
        reader.close()
