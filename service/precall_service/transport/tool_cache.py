"""ToolCacheService: the cache of tool results, for clients that run tools themselves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable
from contextlib import aclosing, asynccontextmanager

import grpc.aio

from precall.v1 import tool_cache_pb2, tool_cache_pb2_grpc
from precall_service.agent.refusals import RETRY_AFTER_S
from precall_service.cache.cache import ToolCache
from precall_service.domain.clock import Clock
from precall_service.domain.errors import Reason, ServiceError
from precall_service.transport import cache_in, cache_out
from precall_service.transport.cache_in import CacheReader
from precall_service.transport.opening_in import tenant
from precall_service.transport.stall import WriteWatch
from precall_service.transport.statuses import RequestT, ResponseT

_WatchContext = grpc.aio.ServicerContext[
    tool_cache_pb2.ToolCacheServiceWatchRequest, tool_cache_pb2.ToolCacheServiceWatchResponse
]


class ToolCacheServicer(tool_cache_pb2_grpc.ToolCacheServiceServicer):
    """Serves the cache. Each tenant sees only its own entries."""

    def __init__(
        self, cache: ToolCache, clock: Clock, *, arguments_bytes_max: int, unread_s: float
    ) -> None:
        self._cache = cache
        self._clock = clock
        self._arguments_bytes_max = arguments_bytes_max
        self._unread_s = unread_s
        self._watches: set[asyncio.Timeout] = set()
        self._draining = False

    def drain(self) -> None:
        """Ends every Watch and refuses new ones, since they would not end by themselves."""
        if self._draining:
            return
        self._draining = True
        for watch in self._watches:
            watch.reschedule(asyncio.get_running_loop().time())

    async def Get(  # noqa: N802 - the names are the contract's
        self,
        request: tool_cache_pb2.ToolCacheServiceGetRequest,
        context: grpc.aio.ServicerContext[
            tool_cache_pb2.ToolCacheServiceGetRequest,
            Awaitable[tool_cache_pb2.ToolCacheServiceGetResponse],
        ],
    ) -> tool_cache_pb2.ToolCacheServiceGetResponse:
        """Returns the usable entry."""
        reader = self._reader(context)
        found = await self._cache.get(reader.get(request))
        entry = cache_out.entry(request.key, found, time.time())
        return tool_cache_pb2.ToolCacheServiceGetResponse(entry=entry)

    async def GetResourceVersions(  # noqa: N802
        self,
        request: tool_cache_pb2.GetResourceVersionsRequest,
        context: grpc.aio.ServicerContext[
            tool_cache_pb2.GetResourceVersionsRequest,
            Awaitable[tool_cache_pb2.GetResourceVersionsResponse],
        ],
    ) -> tool_cache_pb2.GetResourceVersionsResponse:
        """Returns the current versions of resources."""
        reader = self._reader(context)
        names = cache_in.resource_names(request)
        found = await self._cache.resource_versions(reader.tenant, names)
        return tool_cache_pb2.GetResourceVersionsResponse(
            versions=map(cache_out.resource_version, found.versions),
            position=found.position or 0,
        )

    async def Put(  # noqa: N802
        self,
        request: tool_cache_pb2.ToolCacheServicePutRequest,
        context: grpc.aio.ServicerContext[
            tool_cache_pb2.ToolCacheServicePutRequest,
            Awaitable[tool_cache_pb2.ToolCacheServicePutResponse],
        ],
    ) -> tool_cache_pb2.ToolCacheServicePutResponse:
        """Stores a result."""
        reader = self._reader(context)
        put = reader.put(request)
        entry_version = await self._cache.put(put.key, put.value, put.observed, put.entry_version)
        return tool_cache_pb2.ToolCacheServicePutResponse(entry_version=entry_version)

    async def Invalidate(  # noqa: N802
        self,
        request: tool_cache_pb2.ToolCacheServiceInvalidateRequest,
        context: grpc.aio.ServicerContext[
            tool_cache_pb2.ToolCacheServiceInvalidateRequest,
            Awaitable[tool_cache_pb2.ToolCacheServiceInvalidateResponse],
        ],
    ) -> tool_cache_pb2.ToolCacheServiceInvalidateResponse:
        """Makes entries unreachable."""
        reader = self._reader(context)
        position = await self._cache.invalidate(reader.tenant, reader.change(request))
        return tool_cache_pb2.ToolCacheServiceInvalidateResponse(position=position)

    # Not a generator, as with AgentService.Converse, so that the time of each write is limited.
    async def Watch(  # pyright: ignore[reportIncompatibleMethodOverride]  # noqa: N802
        self,
        request: tool_cache_pb2.ToolCacheServiceWatchRequest,
        context: _WatchContext,
    ) -> None:
        """Reports changes until the client leaves or stops reading, or the server drains."""
        reader = self._reader(context)
        after = cache_in.watched_after(request)
        async with self._until_drained():
            # Without it, a client would not know before the first change that it is served.
            await context.send_initial_metadata(())
            await self._report(reader.tenant, after, context)

    async def Stats(  # noqa: N802
        self,
        request: tool_cache_pb2.ToolCacheServiceStatsRequest,
        context: grpc.aio.ServicerContext[
            tool_cache_pb2.ToolCacheServiceStatsRequest,
            Awaitable[tool_cache_pb2.ToolCacheServiceStatsResponse],
        ],
    ) -> tool_cache_pb2.ToolCacheServiceStatsResponse:
        """Returns the statistics of the tenant."""
        reader = self._reader(context)
        return cache_out.stats(await self._cache.stats(reader.tenant))

    def _reader(self, context: grpc.aio.ServicerContext[RequestT, ResponseT]) -> CacheReader:
        """Returns the reader of the caller's requests."""
        return CacheReader(
            tenant(context.invocation_metadata() or ()),
            self._arguments_bytes_max,
            self._cache.limits,
        )

    @asynccontextmanager
    async def _until_drained(self) -> AsyncGenerator[None]:
        """Ends the block when the server drains.

        Raises:
            ServiceError: DRAINING if the server drains.
        """
        if self._draining:
            raise _shutting_down()
        scope = asyncio.timeout(None)
        try:
            async with scope:
                self._watches.add(scope)
                yield
        except TimeoutError:
            if scope.expired():
                raise _shutting_down() from None
            raise
        finally:
            self._watches.discard(scope)

    async def _report(self, whose: str, after: int | None, context: _WatchContext) -> None:
        """Writes changes as they come.

        Raises:
            ServiceError: FLOW_LIMIT if the client does not read, and the errors of the cache.
        """
        try:
            async with (
                aclosing(self._cache.watch(whose, after)) as changes,
                WriteWatch(self._clock, self._unread_s) as unread,
            ):
                async for change in changes:
                    unread.begin()
                    await context.write(cache_out.watched(change))
                    unread.end()
        except TimeoutError:
            raise ServiceError(
                Reason.FLOW_LIMIT,
                f"the client left changes unread for {self._unread_s:g} s, which is the limit: "
                "watch again after the last position that you have read",
                metadata={"limit_s": f"{self._unread_s:g}"},
            ) from None


def _shutting_down() -> ServiceError:
    return ServiceError(
        Reason.DRAINING,
        "the server is shutting down: watch again on another replica, after the last position "
        f"that you have read, or here in {RETRY_AFTER_S:g} s",
        retry_after_s=RETRY_AFTER_S,
    )
