"""Serves the tool cache of a fake server over gRPC."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable
from contextlib import aclosing, asynccontextmanager
from typing import Any

import grpc.aio

from precall.testing._cache import FakeCache
from precall.testing._cache_refusals import check_get, check_put, check_resources, check_target
from precall.testing._opening_refusals import check_tenant
from precall.testing._status import RefusedError, abort, status
from precall.v1 import tool_cache_pb2
from precall.v1.tool_cache_pb2_grpc import ToolCacheServiceServicer


class CacheServicer(ToolCacheServiceServicer):
    """Checks calls and passes them to the cache; refuses them if the server has no cache."""

    def __init__(self, cache: FakeCache | None, arguments_bytes_max: int) -> None:
        self._cache = cache
        self._arguments_bytes_max = arguments_bytes_max

    async def Get(  # noqa: N802  the contract's name
        self,
        request: tool_cache_pb2.ToolCacheServiceGetRequest,
        context: grpc.aio.ServicerContext[
            tool_cache_pb2.ToolCacheServiceGetRequest,
            Awaitable[tool_cache_pb2.ToolCacheServiceGetResponse],
        ],
    ) -> tool_cache_pb2.ToolCacheServiceGetResponse:
        async with self._served(context) as cache:
            check_get(request, self._arguments_bytes_max)
            return tool_cache_pb2.ToolCacheServiceGetResponse(entry=cache.get(request.key))

    async def GetResourceVersions(  # noqa: N802  the contract's name
        self,
        request: tool_cache_pb2.GetResourceVersionsRequest,
        context: grpc.aio.ServicerContext[
            tool_cache_pb2.GetResourceVersionsRequest,
            Awaitable[tool_cache_pb2.GetResourceVersionsResponse],
        ],
    ) -> tool_cache_pb2.GetResourceVersionsResponse:
        async with self._served(context) as cache:
            check_resources(request.resources)
            return tool_cache_pb2.GetResourceVersionsResponse(
                versions=[
                    tool_cache_pb2.ResourceVersion(resource=name, version=cache.version(name))
                    for name in request.resources
                ],
                position=cache.position,
            )

    async def Put(  # noqa: N802  the contract's name
        self,
        request: tool_cache_pb2.ToolCacheServicePutRequest,
        context: grpc.aio.ServicerContext[
            tool_cache_pb2.ToolCacheServicePutRequest,
            Awaitable[tool_cache_pb2.ToolCacheServicePutResponse],
        ],
    ) -> tool_cache_pb2.ToolCacheServicePutResponse:
        async with self._served(context) as cache:
            check_put(request, self._arguments_bytes_max)
            version = cache.put(request).entry_version
            return tool_cache_pb2.ToolCacheServicePutResponse(entry_version=version)

    async def Invalidate(  # noqa: N802  the contract's name
        self,
        request: tool_cache_pb2.ToolCacheServiceInvalidateRequest,
        context: grpc.aio.ServicerContext[
            tool_cache_pb2.ToolCacheServiceInvalidateRequest,
            Awaitable[tool_cache_pb2.ToolCacheServiceInvalidateResponse],
        ],
    ) -> tool_cache_pb2.ToolCacheServiceInvalidateResponse:
        async with self._served(context) as cache:
            check_target(request.target, self._arguments_bytes_max)
            position = cache.invalidate(request.target)
            return tool_cache_pb2.ToolCacheServiceInvalidateResponse(position=position)

    async def Watch(  # noqa: N802  the contract's name
        self,
        request: tool_cache_pb2.ToolCacheServiceWatchRequest,
        context: grpc.aio.ServicerContext[
            tool_cache_pb2.ToolCacheServiceWatchRequest,
            AsyncIterator[tool_cache_pb2.ToolCacheServiceWatchResponse],
        ],
    ) -> AsyncIterator[tool_cache_pb2.ToolCacheServiceWatchResponse]:
        after = request.after_position if request.HasField("after_position") else None
        async with self._served(context) as cache, aclosing(cache.watch(after)) as changes:
            await context.send_initial_metadata(())
            async for change in changes:
                yield change

    async def Stats(  # noqa: N802  the contract's name
        self,
        request: tool_cache_pb2.ToolCacheServiceStatsRequest,
        context: grpc.aio.ServicerContext[
            tool_cache_pb2.ToolCacheServiceStatsRequest,
            Awaitable[tool_cache_pb2.ToolCacheServiceStatsResponse],
        ],
    ) -> tool_cache_pb2.ToolCacheServiceStatsResponse:
        async with self._served(context) as cache:
            return cache.stats()

    @asynccontextmanager
    async def _served(
        self, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncGenerator[FakeCache, None]:
        """Yields the cache; ends the call with a status if the request is refused."""
        if self._cache is None:
            await abort(context, status("NOT_SERVED", "the fake lists no TOOL_CACHE"))
        try:
            check_tenant(context.invocation_metadata() or ())
            yield self._cache
        except RefusedError as refused:
            await abort(context, refused.status)
