"""The tool cache of a fake server: in memory, one for all tenants, with what clients put into it.

Owns: the entries, the writes, and the log of changes.
Never: stores the results of scripted calls, or uses the resources that a tool declares. A call of a
    tool that is not read_only counts as a write to everything.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator
from typing import TypeAlias

from google.protobuf.timestamp_pb2 import Timestamp

from precall import _frames
from precall.testing._service.domain.json import JsonError, canonical, parse_object
from precall.testing._status import RefusedError
from precall.v1 import tool_cache_pb2, tool_pb2

Change: TypeAlias = tool_cache_pb2.ToolCacheServiceWatchResponse
Entry: TypeAlias = tool_cache_pb2.CacheEntry
Key: TypeAlias = tool_cache_pb2.CacheKey
Target: TypeAlias = tool_cache_pb2.InvalidationTarget

_EVERYTHING = "*"


class FakeCache:
    """Follows the contract of ToolCacheService. The fields of its requests have been checked."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        self._entry_versions: dict[str, int] = {}
        self._writes: list[tuple[int, str]] = []
        self._changes: list[Change] = []
        self._changed = asyncio.Event()
        self._stats = tool_cache_pb2.ToolCacheServiceStatsResponse(store_available=True)

    def get(self, key: Key) -> Entry:
        """Returns the usable entry, and counts the hit or the miss.

        Raises:
            RefusedError: There is none.
        """
        entry = self._usable(key)
        self._stats.hits += entry is not None
        self._stats.misses += entry is None
        if entry is None:
            raise RefusedError("CACHE_ENTRY_UNKNOWN", f"there is no entry for {key.tool_name}")
        return entry

    def answer(self, tool: tool_pb2.Tool, key: Key) -> Entry | None:
        """Returns the entry that answers a call of a tool; None if the handler has to run."""
        if not _frames.seconds(tool.cache.ttl):
            return None
        if tool.cache.scope == tool_pb2.CACHE_SCOPE_TENANT:
            key.conversation_id = ""
        try:
            return self.get(key)
        except (RefusedError, JsonError):  # what has no canonical form is never cached
            return None

    def put(self, request: tool_cache_pb2.ToolCacheServicePutRequest) -> Entry:
        """Stores an entry.

        Raises:
            RefusedError: Something has changed, or was never as the request says.
        """
        usable = self._usable(request.key)
        version = usable.entry_version if usable else 0
        self._check_observed(request)
        if request.HasField("expected_entry_version") and request.expected_entry_version != version:
            text = f"the entry has version {version}, not {request.expected_entry_version}"
            raise RefusedError("CACHE_VERSION_MISMATCH", text, "expected_entry_version")
        name, now = _name(request.key), time.time()
        self._entry_versions[name] = self._entry_versions.get(name, 0) + 1
        entry = self._entries[name] = Entry(
            key=request.key,
            result_json=request.result_json,
            entry_version=self._entry_versions[name],
            resource_versions=request.observed_versions,
            origin=tool_cache_pb2.CACHE_ORIGIN_PUT,
            create_time=_timestamp(now),
            expire_time=_timestamp(now + _frames.seconds(request.ttl)),
            content=request.content,
        )
        if request.HasField("recompute_cost"):
            entry.recompute_cost.CopyFrom(request.recompute_cost)
        stored = tool_cache_pb2.CacheEntryStored(key=entry.key, entry_version=entry.entry_version)
        self._log(Change(stored=stored))
        return entry

    @property
    def position(self) -> int:
        """The position of the last change."""
        return len(self._changes)

    def version(self, resource: str) -> int:
        """Returns the version of a resource: the position of the last write that concerns it."""
        return max((at for at, name in self._writes if _conflict(name, resource)), default=0)

    def invalidate(self, target: Target) -> int:
        """Makes entries unreachable, and returns the position of the change."""
        for name, entry in list(self._entries.items()):
            if _concerns(target, entry):
                del self._entries[name]
        invalidated = tool_cache_pb2.CacheEntriesInvalidated(target=target)
        position = self._log(Change(invalidated=invalidated))
        if target.resource:
            self._writes.append((position, target.resource))
        return position

    def wrote(self) -> None:
        """Notes that a tool ran which is not read_only, and so may have written anything."""
        position = self.invalidate(Target(all=tool_cache_pb2.AllEntries()))
        self._writes.append((position, _EVERYTHING))

    async def watch(self, after: int | None) -> AsyncGenerator[Change, None]:
        """Yields the changes after a position, and later ones as they happen."""
        read = len(self._changes) if after is None else after
        while True:
            while read < len(self._changes):
                read += 1
                yield self._changes[read - 1]
            self._changed.clear()
            await self._changed.wait()

    def stats(self) -> tool_cache_pb2.ToolCacheServiceStatsResponse:
        """Returns the statistics."""
        self._stats.entries = len(self._entries)
        self._stats.bytes = sum(entry.ByteSize() for entry in self._entries.values())
        return self._stats

    def _usable(self, key: Key) -> Entry | None:
        entry = self._entries.get(_name(key))
        return entry if entry and _s(entry.expire_time) > time.time() else None

    def _check_observed(self, request: tool_cache_pb2.ToolCacheServicePutRequest) -> None:
        """Raises RefusedError if what was observed has changed, or never was so."""
        for index, seen in enumerate(request.observed_versions):
            if seen.version > self.position:
                text = f"{seen.resource!r} never had this version"
                field = f"observed_versions[{index}].version"
                raise RefusedError("FIELD_INVALID", text, field)
            if seen.version != self.version(seen.resource):
                text = f"{seen.resource!r} has changed since its version was read"
                raise RefusedError("CACHE_RESOURCE_CHANGED", text, "observed_versions")
        if request.HasField("observed_position"):
            if request.observed_position > self.position:
                text = "this position was never given out"
                raise RefusedError("FIELD_INVALID", text, "observed_position")
            if self._concerned(request):
                text = "the entry was invalidated since the versions were read"
                raise RefusedError("CACHE_RESOURCE_CHANGED", text, "observed_versions")

    def _concerned(self, request: tool_cache_pb2.ToolCacheServicePutRequest) -> bool:
        """Returns whether an entry was invalidated after the position that was observed."""
        entry = Entry(key=request.key, resource_versions=request.observed_versions)
        return any(
            change.HasField("invalidated") and _concerns(change.invalidated.target, entry)
            for change in self._changes[request.observed_position :]
        )

    def _log(self, change: Change) -> int:
        change.position = self.position + 1
        change.time.CopyFrom(_timestamp(time.time()))
        self._changes.append(change)
        self._changed.set()
        return change.position


def age_s(entry: Entry) -> float:
    """Returns how old an entry is."""
    return max(0.0, time.time() - _s(entry.create_time))


def _name(key: Key) -> str:
    """Returns a text that is the same for equal keys.

    Raises:
        JsonError: The arguments have no canonical form.
    """
    arguments = canonical(parse_object(key.arguments_json)).decode()
    return json.dumps([key.tool_name, key.tool_version, key.conversation_id, arguments])


def _concerns(target: Target, entry: Entry) -> bool:
    key = entry.key
    match target.WhichOneof("target"):
        case "key":
            return _name(key) == _name(target.key)
        case "tool_name":
            return key.tool_name == target.tool_name
        case "tool_version":
            tool = target.tool_version
            return (key.tool_name, key.tool_version) == (tool.tool_name, tool.tool_version)
        case "resource":
            depends = [seen.resource for seen in entry.resource_versions]
            if key.conversation_id:
                depends.append(f"conversation:{key.conversation_id}")
            return any(_conflict(target.resource, name) for name in depends)
        case "conversation_id":
            return key.conversation_id == target.conversation_id
        case _:
            return True


def _conflict(one: str, other: str) -> bool:
    return _covers(one, other) or _covers(other, one)


def _covers(name: str, other: str) -> bool:
    return name == other or (name.endswith("*") and other.startswith(name[:-1]))


def _timestamp(seconds_since_1970: float) -> Timestamp:
    message = Timestamp()
    message.FromNanoseconds(round(seconds_since_1970 * 1e9))
    return message


def _s(moment: Timestamp) -> float:
    return moment.ToNanoseconds() / 1e9
