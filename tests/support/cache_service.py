"""Calls ToolCacheService as one tenant."""

from __future__ import annotations

from dataclasses import dataclass

import grpc
import grpc.aio
from google.protobuf.duration_pb2 import Duration

from precall.v1 import tool_cache_pb2, tool_cache_pb2_grpc, tool_pb2
from tests.support.stream import WAIT_S, ending
from tests.support.wire import Failure

Get = tool_cache_pb2.ToolCacheServiceGetRequest
Put = tool_cache_pb2.ToolCacheServicePutRequest
Invalidate = tool_cache_pb2.ToolCacheServiceInvalidateRequest
Versions = tool_cache_pb2.GetResourceVersionsRequest
Watch = tool_cache_pb2.ToolCacheServiceWatchRequest
Stats = tool_cache_pb2.ToolCacheServiceStatsRequest
Target = tool_cache_pb2.InvalidationTarget


def call(
    arguments_json: str = '{"city":"Rome"}',
    *,
    tool_name: str = "weather",
    tool_version: str = "1",
    scope: int = tool_pb2.CACHE_SCOPE_TENANT,
    conversation_id: str = "",
) -> tool_cache_pb2.CacheKey:
    return tool_cache_pb2.CacheKey(
        tool_name=tool_name,
        tool_version=tool_version,
        arguments_json=arguments_json,
        scope=tool_pb2.CacheScope.ValueType(scope),
        conversation_id=conversation_id,
    )


def of_conversation(conversation_id: str) -> tool_cache_pb2.CacheKey:
    return call(scope=tool_pb2.CACHE_SCOPE_CONVERSATION, conversation_id=conversation_id)


@dataclass(frozen=True, slots=True)
class Caller:
    """Calls the service as one tenant."""

    channel: grpc.aio.Channel
    tenant: str = "acme"

    @property
    def stub(self) -> tool_cache_pb2_grpc.ToolCacheServiceStub:
        return tool_cache_pb2_grpc.ToolCacheServiceStub(self.channel)

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        return (("precall-tenant", self.tenant),)

    async def get(self, key: tool_cache_pb2.CacheKey | None = None) -> tool_cache_pb2.CacheEntry:
        request = Get(key=call() if key is None else key)
        return (await self.stub.Get(request, metadata=self.metadata, timeout=WAIT_S)).entry

    async def missed(self, key: tool_cache_pb2.CacheKey | None = None) -> Failure:
        """Checks that there is no usable entry."""
        request = Get(key=call() if key is None else key)
        error = await ending(self.stub.Get(request, metadata=self.metadata, timeout=WAIT_S))
        assert error is not None
        assert error.code is grpc.StatusCode.NOT_FOUND
        assert error.reason == "CACHE_ENTRY_UNKNOWN"
        return error

    async def put(
        self, key: tool_cache_pb2.CacheKey | None = None, result_json: str = "21", **fields: object
    ) -> int:
        request = a_put(key, result_json, **fields)
        answer = await self.stub.Put(request, metadata=self.metadata, timeout=WAIT_S)
        return answer.entry_version

    async def put_refused(self, request: Put) -> Failure:
        error = await ending(self.stub.Put(request, metadata=self.metadata, timeout=WAIT_S))
        assert error is not None
        return error

    async def versions(self, *names: str) -> list[tool_cache_pb2.ResourceVersion]:
        request = Versions(resources=names)
        answer = await self.stub.GetResourceVersions(
            request, metadata=self.metadata, timeout=WAIT_S
        )
        assert [version.resource for version in answer.versions] == list(names)
        return list(answer.versions)

    async def invalidate(self, target: Target) -> int:
        request = Invalidate(target=target)
        return (
            await self.stub.Invalidate(request, metadata=self.metadata, timeout=WAIT_S)
        ).position

    async def stats(self) -> tool_cache_pb2.ToolCacheServiceStatsResponse:
        return await self.stub.Stats(Stats(), metadata=self.metadata, timeout=WAIT_S)


def a_put(
    key: tool_cache_pb2.CacheKey | None = None, result_json: str = "21", **fields: object
) -> Put:
    fields = {"ttl": Duration(seconds=60), **fields}
    return Put(
        key=call() if key is None else key,
        result_json=result_json,
        **fields,  # pyright: ignore[reportArgumentType]
    )
