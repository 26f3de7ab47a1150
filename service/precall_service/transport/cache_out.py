"""Converts values of the tool cache to messages of the contract."""

from __future__ import annotations

from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from precall.v1 import content_pb2, tool_cache_pb2, tool_pb2
from precall_service.cache.base import (
    CacheKey,
    Change,
    ChangeKind,
    Entry,
    LoggedChange,
    ResourceVersion,
)
from precall_service.cache.counts import CacheStats
from precall_service.domain.tools import CacheScope
from precall_service.transport.fields import duration

_DURATION_MAX_S: Final = 315_576_000_000.0  # 10,000 years, of google/protobuf/duration.proto

_SCOPES: Final = {
    CacheScope.CONVERSATION: tool_pb2.CACHE_SCOPE_CONVERSATION,
    CacheScope.TENANT: tool_pb2.CACHE_SCOPE_TENANT,
}


def entry(key: tool_cache_pb2.CacheKey, found: Entry, now_s: float) -> tool_cache_pb2.CacheEntry:
    """Returns an entry, with the key as the caller wrote it. `now_s` is in seconds since 1970."""
    value = found.value
    content = (content_pb2.ContentPart(text=value.content),) if value.content else ()
    message = tool_cache_pb2.CacheEntry(
        key=key,
        result_json=value.result_json,
        entry_version=found.entry_version,
        resource_versions=map(resource_version, found.resources),
        execution_id=value.execution_id,
        origin=tool_cache_pb2.CacheOrigin.ValueType(value.origin.value),
        create_time=_timestamp(now_s - found.age_s),
        expire_time=_timestamp(now_s + found.expires_in_s),
        content=content,
    )
    if value.cost_s > 0:
        message.recompute_cost.CopyFrom(duration(value.cost_s))
    return message


def resource_version(version: ResourceVersion) -> tool_cache_pb2.ResourceVersion:
    """Returns a resource with its version."""
    return tool_cache_pb2.ResourceVersion(resource=version.resource, version=version.version)


def watched(logged: LoggedChange) -> tool_cache_pb2.ToolCacheServiceWatchResponse:
    """Returns a change as Watch reports it."""
    message = tool_cache_pb2.ToolCacheServiceWatchResponse(
        position=logged.position, time=_timestamp(logged.time_s)
    )
    change = logged.change
    if change is None:
        message.gap.SetInParent()
    elif change.kind is ChangeKind.STORED:
        message.stored.CopyFrom(
            tool_cache_pb2.CacheEntryStored(
                key=_key(change.key), entry_version=change.entry_version
            )
        )
    else:
        message.invalidated.target.CopyFrom(_target(change))
    return message


def stats(values: CacheStats) -> tool_cache_pb2.ToolCacheServiceStatsResponse:
    """Returns the statistics of a tenant."""
    return tool_cache_pb2.ToolCacheServiceStatsResponse(
        entries=values.entries,
        bytes=values.bytes,
        hits=values.hits,
        misses=values.misses,
        stale=values.stale,
        evictions=values.evictions,
        time_saved=duration(min(values.time_saved_s, _DURATION_MAX_S)),
        store_available=values.store_available,
        joined=values.joined,
        store_failures=values.store_failures,
    )


def _target(change: Change) -> tool_cache_pb2.InvalidationTarget:
    match change.kind, change.names:
        case ChangeKind.KEY, ():
            return tool_cache_pb2.InvalidationTarget(key=_key(change.key))
        case ChangeKind.TOOL, (name,):
            return tool_cache_pb2.InvalidationTarget(tool_name=name)
        case ChangeKind.TOOL_VERSION, (name, version):
            tool = tool_cache_pb2.ToolVersion(tool_name=name, tool_version=version)
            return tool_cache_pb2.InvalidationTarget(tool_version=tool)
        case ChangeKind.RESOURCE, (name,):
            return tool_cache_pb2.InvalidationTarget(resource=name)
        case ChangeKind.CONVERSATION, (conversation_id,):
            return tool_cache_pb2.InvalidationTarget(conversation_id=conversation_id)
        case ChangeKind.ALL, ():
            return tool_cache_pb2.InvalidationTarget(all=tool_cache_pb2.AllEntries())
        case _:
            raise AssertionError(f"this change is not an invalidation: {change.kind}")


def _key(key: CacheKey | None) -> tool_cache_pb2.CacheKey:
    assert key is not None, "a change of an entry has a key"
    return tool_cache_pb2.CacheKey(
        tool_name=key.tool_name,
        tool_version=key.tool_version,
        arguments_json=key.arguments_json,
        scope=_SCOPES[key.scope],
        conversation_id=key.conversation_id,
    )


def _timestamp(seconds_since_1970: float) -> Timestamp:
    message = Timestamp()
    message.FromMicroseconds(round(seconds_since_1970 * 1e6))
    return message
