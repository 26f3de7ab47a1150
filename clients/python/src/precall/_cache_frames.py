"""Converts calls of the tool cache to messages of the contract, and the answers back to values.

Owns: every use of a field of `precall.v1.tool_cache`.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable

import pydantic_core
from google.protobuf.timestamp_pb2 import Timestamp
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from precall._cache_values import (
    CacheChange,
    CacheEntriesInvalidated,
    CacheEntry,
    CacheEntryStored,
    CacheKey,
    CacheOrigin,
    CacheStats,
    CacheTarget,
    CacheWatchGap,
    ResourceVersion,
    ResourceVersions,
)
from precall._events_in import content_part
from precall._frames import content, duration, member, seconds
from precall._validate import Seconds, SecondsOrZero, Text, UInt64, Validator
from precall.v1 import tool_cache_pb2, tool_pb2


class _PutArguments(TypedDict, total=False):
    ttl_s: Seconds
    recompute_cost_s: SecondsOrZero
    expected_entry_version: UInt64
    content: Text


_PUT = Validator(_PutArguments)


def key(value: CacheKey) -> tool_cache_pb2.CacheKey:
    """Returns the key of an entry."""
    return tool_cache_pb2.CacheKey(
        tool_name=value.tool_name,
        tool_version=value.tool_version,
        arguments_json=value.arguments_json,
        scope=tool_pb2.CACHE_SCOPE_CONVERSATION
        if value.conversation_id
        else tool_pb2.CACHE_SCOPE_TENANT,
        conversation_id=value.conversation_id,
    )


def put_request(
    of: CacheKey,
    result: object,
    observed: ResourceVersions | None,
    *,
    ttl_s: float,
    recompute_cost_s: float | None,
    expected_entry_version: int | None,
    content_text: str,
) -> tool_cache_pb2.ToolCacheServicePutRequest:
    """Returns the request that stores a result.

    Raises:
        TypeError: An argument has the wrong type, or the result cannot be converted to JSON.
        ValueError: An argument is out of range.
    """
    checked: dict[str, object] = {"ttl_s": ttl_s, "content": content_text}
    if recompute_cost_s is not None:
        checked["recompute_cost_s"] = recompute_cost_s
    if expected_entry_version is not None:
        checked["expected_entry_version"] = expected_entry_version
    _PUT.validate(checked, "put")
    request = tool_cache_pb2.ToolCacheServicePutRequest(
        key=key(of),
        result_json=_result_json(result),
        ttl=duration(ttl_s),
        observed_versions=[
            tool_cache_pb2.ResourceVersion(resource=seen.resource, version=seen.version)
            for seen in (observed.versions if observed else ())
        ],
        observed_position=observed.position if observed else None,
        expected_entry_version=expected_entry_version,
        content=content(content_text),
    )
    if recompute_cost_s is not None:
        request.recompute_cost.CopyFrom(duration(recompute_cost_s))
    return request


def target(value: CacheTarget) -> tool_cache_pb2.InvalidationTarget:
    """Returns the entries to make unreachable.

    Raises:
        TypeError: Not exactly one field is set.
    """
    wire = tool_cache_pb2.InvalidationTarget
    named: list[tool_cache_pb2.InvalidationTarget] = []
    if value.key is not None:
        named.append(wire(key=key(value.key)))
    if value.tool is not None:
        named.append(wire(tool_name=value.tool))
    if value.tool_version is not None:
        tool_name, tool_version = value.tool_version
        pair = tool_cache_pb2.ToolVersion(tool_name=tool_name, tool_version=tool_version)
        named.append(wire(tool_version=pair))
    if value.resource is not None:
        named.append(wire(resource=value.resource))
    if value.conversation_id is not None:
        named.append(wire(conversation_id=value.conversation_id))
    if value.everything:
        named.append(wire(all=tool_cache_pb2.AllEntries()))
    if len(named) != 1:
        raise TypeError(
            "invalidate takes exactly one of key, tool, tool_version, resource, conversation_id "
            f"and everything=True, not {len(named)}"
        )
    return named[0]


def entry(message: tool_cache_pb2.CacheEntry) -> CacheEntry:
    """Returns a stored result."""
    return CacheEntry(
        key=_key(message.key),
        result_json=message.result_json,
        entry_version=message.entry_version,
        resource_versions=resource_versions(message.resource_versions),
        execution_id=message.execution_id,
        origin=member(CacheOrigin, tool_cache_pb2.CacheOrigin.DESCRIPTOR, message.origin),
        created_at=_moment(message.create_time),
        expires_at=_moment(message.expire_time),
        recompute_cost_s=seconds(message.recompute_cost)
        if message.HasField("recompute_cost")
        else None,
        content=tuple(content_part(part) for part in message.content),
    )


def resource_versions(
    messages: Iterable[tool_cache_pb2.ResourceVersion],
) -> tuple[ResourceVersion, ...]:
    """Returns versions of resources."""
    return tuple(ResourceVersion(message.resource, message.version) for message in messages)


def change(message: tool_cache_pb2.ToolCacheServiceWatchResponse) -> CacheChange | None:
    """Returns a change; None for a kind of change that this version does not know."""
    position, changed_at = message.position, _moment(message.time)
    match message.WhichOneof("change"):
        case "stored":
            return CacheEntryStored(
                position=position,
                changed_at=changed_at,
                key=_key(message.stored.key),
                entry_version=message.stored.entry_version,
            )
        case "invalidated":
            return CacheEntriesInvalidated(
                position=position,
                changed_at=changed_at,
                target=_target(message.invalidated.target),
            )
        case "gap":
            return CacheWatchGap(position=position, changed_at=changed_at)
        case None:
            return None


def stats(message: tool_cache_pb2.ToolCacheServiceStatsResponse) -> CacheStats:
    """Returns the statistics of a cache."""
    return CacheStats(
        entries=message.entries,
        bytes=message.bytes,
        hits=message.hits,
        misses=message.misses,
        stale=message.stale,
        joined=message.joined,
        evictions=message.evictions,
        time_saved_s=seconds(message.time_saved),
        store_failures=message.store_failures,
        store_available=message.store_available,
    )


def _key(message: tool_cache_pb2.CacheKey) -> CacheKey:
    return CacheKey(
        tool_name=message.tool_name,
        tool_version=message.tool_version,
        arguments_json=message.arguments_json,
        conversation_id=message.conversation_id,
    )


def _target(message: tool_cache_pb2.InvalidationTarget) -> CacheTarget:
    match message.WhichOneof("target"):
        case "key":
            return CacheTarget(key=_key(message.key))
        case "tool_name":
            return CacheTarget(tool=message.tool_name)
        case "tool_version":
            named = message.tool_version
            return CacheTarget(tool_version=(named.tool_name, named.tool_version))
        case "resource":
            return CacheTarget(resource=message.resource)
        case "conversation_id":
            return CacheTarget(conversation_id=message.conversation_id)
        case "all" | None:  # a newer server may name any entries in another way
            return CacheTarget(everything=True)


def _moment(message: Timestamp) -> datetime.datetime:
    return message.ToDatetime(datetime.UTC)


def _result_json(result: object) -> str:
    try:
        return pydantic_core.to_json(result, inf_nan_mode="null").decode()  # as a handler's result
    except (ValueError, TypeError, RecursionError) as problem:
        raise TypeError(
            f"put: the result is {type(result).__name__}, which does not become JSON: {problem}"
        ) from None
