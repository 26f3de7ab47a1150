"""The tool cache of a tenant: results of tools that may be reused.

Owns: the calls of `ToolCacheService`, each with its timeout.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable
from typing import overload

import grpc
import grpc.aio

from precall import _cache_frames, _errors
from precall._cache_values import (
    Arguments,
    CacheChange,
    CacheEntry,
    CacheKey,
    CacheStats,
    CacheTarget,
    ResourceVersions,
)
from precall._connection import Connection
from precall._errors import ConnectionLostError, PrecallError
from precall._scope import being_cancelled
from precall.v1 import tool_cache_pb2
from precall.v1.tool_cache_pb2_grpc import ToolCacheServiceStub


class ToolCache:
    """The tool cache of the client's tenant: `client.cache`.

    The server fills it with the results of tools that have a `cache_ttl_s`. Use this class to
    inspect the cache, to invalidate results after a change outside of precall, and to put results
    into it that you have computed yourself:

    ```python
    seen = await client.cache.resource_versions(["file:/a"])  # before the result is computed
    result = read_file("/a")
    await client.cache.put("read_file", "1", {"path": "/a"}, result, ttl_s=60, observed=seen)
    ```

    Every method raises ConnectError if no server can be reached, if it does not answer in time or
    if the client is closed; NotServedError if the server has no tool cache; and UnavailableError
    if the server cannot use its cache store (except `stats`).
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def get(
        self,
        tool_name: str,
        tool_version: str,
        arguments: Arguments,
        *,
        conversation_id: str = "",
    ) -> CacheEntry | None:
        """Returns the usable entry for a call; None if there is none.

        Args:
            tool_name: Name of the tool.
            tool_version: Version of the tool; for one of your own,
                `conversation.tool_version(tool_name)`.
            arguments: The arguments, or their JSON text. The order does not matter.
            conversation_id: The conversation, for a tool whose `cache_scope` is "conversation".
                Empty: the entry that every conversation of the tenant may use.

        Raises:
            InvalidArgumentError: The server refused a part of the key; the message says which.
            TypeError, ValueError: The arguments cannot be converted to JSON.
        """
        key = CacheKey.of_call(tool_name, tool_version, arguments, conversation_id=conversation_id)
        request = tool_cache_pb2.ToolCacheServiceGetRequest(key=_cache_frames.key(key))
        try:
            answer = await self._connection.ask(
                lambda channel: ToolCacheServiceStub(channel).Get, request
            )
        except PrecallError as error:
            if error.reason == "CACHE_ENTRY_UNKNOWN":
                return None
            raise
        return _cache_frames.entry(answer.entry)

    async def put(
        self,
        tool_name: str,
        tool_version: str,
        arguments: Arguments,
        result: object,
        *,
        ttl_s: float,
        observed: ResourceVersions | None = None,
        expected_entry_version: int | None = None,
        recompute_cost_s: float | None = None,
        content: str = "",
        conversation_id: str = "",
    ) -> int:
        """Stores a result that you have computed, and returns the version of the entry.

        Args:
            tool_name: Name of the tool.
            tool_version: Version of the tool; for one of your own,
                `conversation.tool_version(tool_name)`.
            arguments: The arguments, or their JSON text.
            result: The result, as the tool would return it.
            ttl_s: How long the result may be used, in seconds.
            observed: The resources that the result depends on, as `resource_versions` returned them
                before you computed it. None: it depends on no resources.
            expected_entry_version: The version that the usable entry must have now; 0: there must
                be no usable entry. None: the result replaces any entry.
            recompute_cost_s: How long it takes to compute the result. Cheap results are dropped
                first to make room.
            content: What the model sees instead of the result's JSON text.
            conversation_id: The conversation, for a tool whose `cache_scope` is "conversation".
                Empty: every conversation of the tenant may use the result.

        Raises:
            CacheConflictError: Nothing was stored: something that the result depends on has changed
                since it was observed, or the entry has another version than expected.
            TooLargeError: The result is larger than the server's limit for an entry.
            LimitReachedError: The request is larger than one message may be.
            InvalidArgumentError: The server refused another value; the message says which.
            TypeError, ValueError: A value has the wrong type, is out of range, or cannot be
                converted to JSON.

        On cancel: the server may have stored the result.
        """
        request = _cache_frames.put_request(
            CacheKey.of_call(tool_name, tool_version, arguments, conversation_id=conversation_id),
            result,
            observed,
            ttl_s=ttl_s,
            recompute_cost_s=recompute_cost_s,
            expected_entry_version=expected_entry_version,
            content_text=content,
        )
        answer = await self._connection.ask(
            lambda channel: ToolCacheServiceStub(channel).Put, request
        )
        return answer.entry_version

    async def resource_versions(self, names: Iterable[str]) -> ResourceVersions:
        """Returns the current versions of resources, in the order of their names.

        Read them before you compute a result, and give them to `put`. If one of the resources has
        changed in the meantime, the result is not stored. Start a `watch` at their `position` to
        miss no change from now on.

        Args:
            names: Names such as `file:/a/b`, or `file:/a/*` for everything below `file:/a`. May be
                empty, to get only the position.

        Raises:
            InvalidArgumentError: A name is not valid, or there are too many names.
            TypeError: `names` is a string instead of a list.
        """
        if isinstance(names, str):
            raise TypeError(f"resource_versions takes a list of names: [{names!r}]")
        request = tool_cache_pb2.GetResourceVersionsRequest(resources=names)
        answer = await self._connection.ask(
            lambda channel: ToolCacheServiceStub(channel).GetResourceVersions, request
        )
        return ResourceVersions(_cache_frames.resource_versions(answer.versions), answer.position)

    @overload
    async def invalidate(self, *, key: CacheKey) -> int: ...
    @overload
    async def invalidate(self, *, tool: str) -> int: ...
    @overload
    async def invalidate(self, *, tool_version: tuple[str, str]) -> int: ...
    @overload
    async def invalidate(self, *, resource: str) -> int: ...
    @overload
    async def invalidate(self, *, conversation_id: str) -> int: ...
    @overload
    async def invalidate(self, *, everything: bool) -> int: ...

    async def invalidate(
        self,
        *,
        key: CacheKey | None = None,
        tool: str | None = None,
        tool_version: tuple[str, str] | None = None,
        resource: str | None = None,
        conversation_id: str | None = None,
        everything: bool = False,
    ) -> int:
        """Makes entries unreachable at once. Returns the position of the change, for `watch`.

        Give exactly one argument.

        Args:
            key: One entry: the `key` of an entry or a change, or `CacheKey.of_call(...)`.
            tool: All entries of a tool.
            tool_version: All entries of one version of a tool: its name, and the version.
            resource: All entries that a write to this resource makes stale. Use it after a write
                that was not made by a tool.
            conversation_id: All entries of a conversation.
            everything: True: all entries of the tenant.

        Raises:
            InvalidArgumentError: The server refused a name; the message says why.
            TypeError: None or several of the arguments were given.

        On cancel: the server may have invalidated the entries.
        """
        target = CacheTarget(
            key=key,
            tool=tool,
            tool_version=tool_version,
            resource=resource,
            conversation_id=conversation_id,
            everything=everything,
        )
        request = tool_cache_pb2.ToolCacheServiceInvalidateRequest(
            target=_cache_frames.target(target)
        )
        answer = await self._connection.ask(
            lambda channel: ToolCacheServiceStub(channel).Invalidate, request
        )
        return answer.position

    async def watch(self, after_position: int | None = None) -> AsyncGenerator[CacheChange, None]:
        """Yields the changes of the cache in order, without end.

        These are stored entries, writes and invalidations. If some of them were lost, because they
        are too old, it yields a CacheWatchGap. To end the watch, leave the loop. After an error,
        watch again from the last position that you have seen.

        Args:
            after_position: The position after which changes are reported, such as that of the last
                change that you have seen. None: changes from the first step of the loop on.

        Raises:
            ConnectionLostError: The connection was lost.
            UnavailableError: The server is shutting down, or the loop read too slowly.
            LimitReachedError: Too many watches are open.
            PrecallError: As for every method.
        """
        request = tool_cache_pb2.ToolCacheServiceWatchRequest(after_position=after_position)
        connected = self._connection.here()
        call = ToolCacheServiceStub(connected.channel).Watch(
            request, metadata=self._connection.metadata
        )
        connected.calls.add(call)
        timeout_s = self._connection.options.answer_timeout_s
        began = False
        try:
            # The server sends its headers as soon as the watch has started.
            async with asyncio.timeout(timeout_s):
                await call.initial_metadata()
            began = not call.done()  # a call that fails has headers, too
            async for message in call:
                if (change := _cache_frames.change(message)) is not None:
                    yield change
            raise ConnectionLostError("the server ended the watch of its tool cache")
        except TimeoutError:
            raise _errors.no_answer(self._connection.address, timeout_s) from None
        except grpc.aio.AioRpcError as error:
            failed = _errors.from_rpc(error)
            raise (
                failed if began else _errors.unreachable(self._connection.address, error)
            ) from None
        except asyncio.CancelledError:
            if being_cancelled():
                raise
            closed = connected.closed
            raise await _errors.cancelled(self._connection.address, call, closed=closed) from None
        finally:
            call.cancel()

    async def stats(self) -> CacheStats:
        """Returns what the cache holds, and what the server has counted since its start."""
        request = tool_cache_pb2.ToolCacheServiceStatsRequest()
        answer = await self._connection.ask(
            lambda channel: ToolCacheServiceStub(channel).Stats, request
        )
        return _cache_frames.stats(answer)
