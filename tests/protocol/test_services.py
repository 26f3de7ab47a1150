"""All services except Converse: those not served yet, health, reflection; and connections."""

from __future__ import annotations

import grpc
import grpc.aio
import pytest
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_reflection.v1alpha import reflection, reflection_pb2

from precall.v1 import agent_pb2, agent_pb2_grpc, tool_cache_pb2, tool_host_pb2, tool_pb2
from tests.support.scripts import always, says
from tests.support.stream import (
    WAIT_S,
    StreamDriver,
    connected,
    ending,
    health,
    running_server,
)

HELLO = always(says("Hello."))
HOST = tool_host_pb2.DESCRIPTOR.services_by_name["ToolHostService"]
CACHE = tool_cache_pb2.DESCRIPTOR.services_by_name["ToolCacheService"]
METHODS: list[MethodDescriptor] = [*HOST.methods]


def called(channel: grpc.aio.Channel, method: MethodDescriptor, message: bytes) -> grpc.aio.Call:
    """A call of the method with one message."""
    path = f"/{method.containing_service.full_name}/{method.name}"
    if method.client_streaming:
        return channel.stream_stream(path, bytes, bytes)(iter([message]), timeout=WAIT_S)
    if method.server_streaming:
        return channel.unary_stream(path, bytes, bytes)(message, timeout=WAIT_S)
    return channel.unary_unary(path, bytes, bytes)(message, timeout=WAIT_S)


@pytest.mark.parametrize("message", [b"", b"\xff"], ids=["empty", "not a message"])
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.full_name)
async def test_a_method_that_is_not_served_yet_says_so_by_name(
    method: MethodDescriptor, message: bytes
) -> None:
    async with running_server(HELLO) as server:
        error = await ending(called(server.channel, method, message))
        assert error is not None
        assert error.code is grpc.StatusCode.UNIMPLEMENTED
        assert error.reason == "NOT_SERVED"
        name = f"{method.containing_service.name}.{method.name}"
        assert name in error.message
        assert error.metadata["method"] == name
        assert error.metadata["capability"] == "CAPABILITY_TOOL_HOSTS"
        granted = (await server.info()).capabilities
        assert agent_pb2.CAPABILITY_TOOL_HOSTS not in granted


AGENT = agent_pb2.DESCRIPTOR.services_by_name["AgentService"]
SERVED: list[MethodDescriptor] = [AGENT.methods_by_name["GetServerInfo"], *CACHE.methods]


@pytest.mark.parametrize("method", SERVED, ids=lambda method: method.full_name)
async def test_bytes_that_are_no_request_are_refused(method: MethodDescriptor) -> None:
    async with running_server(HELLO) as server:
        error = await ending(called(server.channel, method, b"\xff"))
        assert error is not None
        assert error.code is grpc.StatusCode.INVALID_ARGUMENT
        assert (error.reason, error.field) == ("FRAME_UNKNOWN", "request")
        assert f"{method.containing_service.full_name}/{method.name}" in error.message


async def test_shared_tools_are_not_served_yet() -> None:
    shared = tool_pb2.SharedToolSelection(names=["search"])
    async with running_server(HELLO) as server:
        stream = server.stream()
        await stream.send("open", agent_pb2.OpenConversation(shared_tools=shared))
        error = await stream.ended()
        assert error is not None
        assert error.reason == "NOT_SERVED"
        assert error.metadata["method"] == "open.shared_tools"
        assert error.metadata["capability"] == "CAPABILITY_TOOL_HOSTS"


async def test_reading_a_transcript_is_not_served_yet() -> None:
    async with running_server(HELLO) as server:
        stub = agent_pb2_grpc.AgentServiceStub(server.channel)
        error = await ending(stub.GetTranscript(agent_pb2.GetTranscriptRequest()))
        assert error is not None
        assert error.reason == "NOT_SERVED"
        assert error.metadata["method"] == "AgentService.GetTranscript"
        assert error.metadata["capability"] == "CAPABILITY_TRANSCRIPT"


async def test_a_method_outside_the_contract_is_unimplemented() -> None:
    async with running_server(HELLO) as server:
        for path in ("/precall.v1.AgentService/Nothing", "/precall.v1.ToolCacheService/Nothing"):
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await server.channel.unary_unary(path)(b"", timeout=WAIT_S)
            assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_health_is_reported_per_service() -> None:
    async with running_server(HELLO) as server:
        assert await health(server.channel, "") == "SERVING"
        assert await health(server.channel, "precall.v1.AgentService") == "SERVING"
        assert await health(server.channel, CACHE.full_name) == "SERVING"
        assert await health(server.channel, HOST.full_name) == "NOT_SERVING"
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await health(server.channel, "precall.v1.Nothing")
        assert raised.value.code() is grpc.StatusCode.NOT_FOUND


async def reflected(
    channel: grpc.aio.Channel, asked: reflection_pb2.ServerReflectionRequest
) -> reflection_pb2.ServerReflectionResponse:
    call = channel.stream_stream(
        f"/{reflection.SERVICE_NAME}/ServerReflectionInfo",
        reflection_pb2.ServerReflectionRequest.SerializeToString,
        reflection_pb2.ServerReflectionResponse.FromString,
    )(iter([asked]), timeout=WAIT_S)
    answer = await call.read()
    assert isinstance(answer, reflection_pb2.ServerReflectionResponse)
    return answer


async def test_reflection_lists_the_services_and_shows_the_contract() -> None:
    async with running_server(HELLO) as server:
        asked = reflection_pb2.ServerReflectionRequest(list_services="*")
        answer = await reflected(server.channel, asked)
        names = {service.name for service in answer.list_services_response.service}
        assert names == {
            "precall.v1.AgentService",
            "precall.v1.ToolHostService",
            "precall.v1.ToolCacheService",
            "grpc.health.v1.Health",
            "grpc.reflection.v1alpha.ServerReflection",
        }
        for service, file in (("AgentService", "agent"), ("ToolCacheService", "tool_cache")):
            asked = reflection_pb2.ServerReflectionRequest(
                file_containing_symbol=f"precall.v1.{service}"
            )
            answer = await reflected(server.channel, asked)
            files = [
                FileDescriptorProto.FromString(text)
                for text in answer.file_descriptor_response.file_descriptor_proto
            ]
            assert f"precall/v1/{file}.proto" in {file.name for file in files}


async def test_keepalive_settings_of_both_sides_are_compatible() -> None:
    keepalive = {"keepalive_s": 0.5, "keepalive_timeout_s": 0.5}
    async with running_server(HELLO, server=keepalive) as server:
        options = [
            ("grpc.keepalive_time_ms", 10_000),
            ("grpc.keepalive_timeout_ms", 1000),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.max_pings_without_data", 0),
        ]
        async with connected(server.service.address, *options) as channel:
            stream = StreamDriver(channel)
            await stream.open()
            assert (await stream.ask()).text == "Hello."
            await stream.close()


async def test_many_streams_share_one_connection() -> None:
    async with running_server(HELLO) as server:
        streams = [await server.opened() for _ in range(100)]
        for stream in streams:
            await stream.start()
        for stream in streams:
            assert (await stream.completed()).text == "Hello."
            await stream.close()
