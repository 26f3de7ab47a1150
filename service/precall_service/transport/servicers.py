"""The services of the contract. `Calls` turns the errors of their methods into statuses."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable

import grpc
import grpc.aio
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor

from precall.v1 import (
    agent_pb2,
    agent_pb2_grpc,
    prediction_pb2,
    tool_cache_pb2,
    tool_host_pb2,
)
from precall_service.agent.conversations import Conversations
from precall_service.transport.converse import Context, ConverseStream
from precall_service.transport.opening_in import tenant
from precall_service.transport.reception import Reception
from precall_service.transport.server_info import ServerInfo
from precall_service.transport.statuses import not_served

AGENT_SERVICE = agent_pb2.DESCRIPTOR.services_by_name["AgentService"]
TOOL_HOST_SERVICE = tool_host_pb2.DESCRIPTOR.services_by_name["ToolHostService"]
TOOL_CACHE_SERVICE = tool_cache_pb2.DESCRIPTOR.services_by_name["ToolCacheService"]


class AgentServicer(agent_pb2_grpc.AgentServiceServicer):
    """Serves conversations and what the server can do."""

    def __init__(
        self,
        conversations: Conversations,
        info: ServerInfo,
        reception: Reception,
        *,
        unread_s: float,
    ) -> None:
        self._conversations = conversations
        self._info = info
        self._reception = reception
        self._unread_s = unread_s

    # grpc.aio accepts a generator, or a coroutine that reads and writes its context. The stubs know
    # only the generator, which cannot hold the stream's task group.
    async def Converse(  # pyright: ignore[reportIncompatibleMethodOverride]  # noqa: N802
        self,
        request_iterator: AsyncIterator[agent_pb2.ConverseRequest],
        context: Context,
    ) -> None:
        """See `ConverseStream`."""
        stream = ConverseStream(
            context,
            self._conversations,
            self._info,
            self._reception,
            unread_s=self._unread_s,
        )
        await stream.serve()

    async def GetServerInfo(  # noqa: N802
        self,
        request: agent_pb2.GetServerInfoRequest,
        context: grpc.aio.ServicerContext[
            agent_pb2.GetServerInfoRequest, Awaitable[agent_pb2.GetServerInfoResponse]
        ],
    ) -> agent_pb2.GetServerInfoResponse:
        """Returns what the server is, serves and allows."""
        return await self._info.response()

    async def GetSpeculationStats(  # noqa: N802
        self,
        request: prediction_pb2.GetSpeculationStatsRequest,
        context: grpc.aio.ServicerContext[
            prediction_pb2.GetSpeculationStatsRequest,
            Awaitable[prediction_pb2.GetSpeculationStatsResponse],
        ],
    ) -> prediction_pb2.GetSpeculationStatsResponse:
        """Returns what speculation has done for the caller's tenant."""
        return self._info.speculation_stats(tenant(context.invocation_metadata() or ()))

    async def GetTranscript(  # noqa: N802
        self,
        request: agent_pb2.GetTranscriptRequest,
        context: grpc.aio.ServicerContext[
            agent_pb2.GetTranscriptRequest, Awaitable[agent_pb2.GetTranscriptResponse]
        ],
    ) -> agent_pb2.GetTranscriptResponse:
        """Refuses, naming the method: it is not served yet."""
        raise not_served("AgentService.GetTranscript", "CAPABILITY_TRANSCRIPT")


class NotServed(grpc.GenericRpcHandler):
    """Answers every method of a service with UNIMPLEMENTED, naming the method."""

    def __init__(self, service: ServiceDescriptor, capability: str) -> None:
        self._methods = {
            f"/{service.full_name}/{method.name}": _refusal(method, capability)
            for method in service.methods
        }

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler[bytes, bytes] | None:
        """Returns the refusing handler for a method of this service; None for any other method."""
        return self._methods.get(handler_call_details.method)


def _refusal(method: MethodDescriptor, capability: str) -> grpc.RpcMethodHandler[bytes, bytes]:
    error = not_served(f"{method.containing_service.name}.{method.name}", capability)

    async def refuse(_request: object, _context: object) -> bytes:
        raise error

    if method.client_streaming:
        return grpc.stream_stream_rpc_method_handler(refuse)
    if method.server_streaming:
        return grpc.unary_stream_rpc_method_handler(refuse)
    return grpc.unary_unary_rpc_method_handler(refuse)
