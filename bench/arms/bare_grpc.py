"""A bare grpc.aio servicer that writes the deltas of a turn as fast as Python can."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Awaitable

import grpc.aio

from bench.process import Link, run_child
from precall.v1 import agent_pb2, agent_pb2_grpc, prediction_pb2, turn_pb2
from precall_service.domain.json import JsonObject


class BareServicer(agent_pb2_grpc.AgentServiceServicer):
    """Answers each StartTurn with the deltas of a turn, built and written one by one."""

    def __init__(self, deltas: int, text: str) -> None:
        self._deltas = deltas
        self._text = text

    async def Converse(  # pyright: ignore[reportIncompatibleMethodOverride]  # noqa: N802
        self,
        request_iterator: AsyncIterator[agent_pb2.ConverseRequest],
        context: grpc.aio.ServicerContext[agent_pb2.ConverseRequest, agent_pb2.ConverseResponse],
    ) -> None:
        sequence = 1
        async for request in request_iterator:
            if request.WhichOneof("frame") == "open":
                opened = agent_pb2.ConversationOpened(conversation_id="bare")
                await context.write(agent_pb2.ConverseResponse(sequence=1, opened=opened))
                continue
            for _ in range(self._deltas):
                sequence += 1
                await context.write(
                    agent_pb2.ConverseResponse(
                        sequence=sequence,
                        acknowledged=request.sequence,
                        turn_id=request.start_turn.turn_id,
                        text_delta=turn_pb2.TextDelta(text=self._text),
                    )
                )

    async def GetServerInfo(  # noqa: N802
        self,
        request: agent_pb2.GetServerInfoRequest,
        context: grpc.aio.ServicerContext[
            agent_pb2.GetServerInfoRequest, Awaitable[agent_pb2.GetServerInfoResponse]
        ],
    ) -> agent_pb2.GetServerInfoResponse:
        return agent_pb2.GetServerInfoResponse()

    async def GetTranscript(  # noqa: N802
        self,
        request: agent_pb2.GetTranscriptRequest,
        context: grpc.aio.ServicerContext[
            agent_pb2.GetTranscriptRequest, Awaitable[agent_pb2.GetTranscriptResponse]
        ],
    ) -> agent_pb2.GetTranscriptResponse:
        return agent_pb2.GetTranscriptResponse()

    async def GetSpeculationStats(  # noqa: N802
        self,
        request: prediction_pb2.GetSpeculationStatsRequest,
        context: grpc.aio.ServicerContext[
            prediction_pb2.GetSpeculationStatsRequest,
            Awaitable[prediction_pb2.GetSpeculationStatsResponse],
        ],
    ) -> prediction_pb2.GetSpeculationStatsResponse:
        return prediction_pb2.GetSpeculationStatsResponse()


async def main(config: JsonObject, link: Link) -> None:
    """Serves until the bench ends."""
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    servicer = BareServicer(int(str(config["deltas"])), str(config["text"]))
    agent_pb2_grpc.add_AgentServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()

    async def collect(_fields: JsonObject) -> JsonObject:
        gc.collect()
        return {}

    await link.answer({"address": f"127.0.0.1:{port}"}, {"collect": collect})
    await server.stop(grace=0)


if __name__ == "__main__":
    run_child(main)
