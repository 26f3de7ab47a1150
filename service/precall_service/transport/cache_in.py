"""Converts requests of ToolCacheService to values, and checks the range of each field."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from google.protobuf.duration_pb2 import Duration

from precall.v1 import tool_cache_pb2, tool_pb2
from precall_service.cache.base import (
    CacheKey,
    Change,
    ChangeKind,
    Observation,
    Origin,
    ResourceVersion,
    Value,
)
from precall_service.cache.keys import cache_key
from precall_service.cache.limits import CacheLimits
from precall_service.domain import resources
from precall_service.domain.json import JsonError, parse, parse_object
from precall_service.domain.tools import TOOL_NAME, CacheScope
from precall_service.transport.content_in import content_text
from precall_service.transport.fields import check_count, check_text, invalid, seconds

RESOURCES_MAX: Final = 64
"""The most resources in one request."""
VERSION_BYTES_MAX: Final = 128
COST_MAX_S: Final = 86_400.0
"""Longer than any tool runs. With a higher cost, an entry would never be dropped to make room."""

_CONVERSATION_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,128}")
_SCOPES: Final = {
    tool_pb2.CACHE_SCOPE_UNSPECIFIED: CacheScope.CONVERSATION,
    tool_pb2.CACHE_SCOPE_CONVERSATION: CacheScope.CONVERSATION,
    tool_pb2.CACHE_SCOPE_TENANT: CacheScope.TENANT,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Put:
    """A request to store a value. `entry_version` is None if any version may be replaced."""

    key: CacheKey
    value: Value
    observed: Observation
    entry_version: int | None


@dataclass(frozen=True, slots=True)
class CacheReader:
    """Reads the requests of one tenant."""

    tenant: str
    arguments_bytes_max: int
    limits: CacheLimits

    def get(self, request: tool_cache_pb2.ToolCacheServiceGetRequest) -> CacheKey:
        """Returns the key to read.

        Raises:
            ServiceError: FIELD_INVALID or TOO_LARGE, naming the field.
        """
        if not request.HasField("key"):
            raise invalid("key", "it is unset: name the entry to read")
        return self._key("key", request.key)

    def put(self, request: tool_cache_pb2.ToolCacheServicePutRequest) -> Put:
        """Returns the value to store, and the conditions for storing it.

        Raises:
            ServiceError: FIELD_INVALID, TOO_LARGE or NOT_SERVED, naming the field.
        """
        if not request.HasField("key"):
            raise invalid("key", "it is unset: name the call that this is the result of")
        key = self._key("key", request.key)
        check_text("result_json", request.result_json, self.limits.entry_bytes_max)
        try:
            parse(request.result_json)
        except JsonError as error:
            raise invalid("result_json", f"it must be JSON text: {error}") from None
        expected = request.expected_entry_version
        return Put(
            key=key,
            value=Value(
                result_json=request.result_json,
                content=content_text("content", request.content),
                execution_id="",
                origin=Origin.PUT,
                cost_s=_cost(request.recompute_cost),
                ttl_s=self._ttl(request),
            ),
            observed=Observation(
                _observed(request.observed_versions),
                request.observed_position if request.HasField("observed_position") else None,
            ),
            entry_version=expected if request.HasField("expected_entry_version") else None,
        )

    def change(self, request: tool_cache_pb2.ToolCacheServiceInvalidateRequest) -> Change:
        """Returns the invalidation to make.

        Raises:
            ServiceError: FIELD_INVALID or TOO_LARGE, naming the field.
        """
        target = request.target
        match target.WhichOneof("target"):
            case "key":
                return Change(kind=ChangeKind.KEY, key=self._key("target.key", target.key))
            case "tool_name":
                _check_tool_name("target.tool_name", target.tool_name)
                return Change(kind=ChangeKind.TOOL, names=(target.tool_name,))
            case "tool_version":
                tool = target.tool_version
                _check_tool("target.tool_version", tool.tool_name, tool.tool_version)
                names = (tool.tool_name, tool.tool_version)
                return Change(kind=ChangeKind.TOOL_VERSION, names=names)
            case "resource":
                _check_resource("target.resource", target.resource)
                return Change(kind=ChangeKind.RESOURCE, names=(target.resource,))
            case "conversation_id":
                _check_conversation_id("target.conversation_id", target.conversation_id)
                return Change(kind=ChangeKind.CONVERSATION, names=(target.conversation_id,))
            case "all":
                return Change(kind=ChangeKind.ALL)
            case None:
                raise invalid(
                    "target",
                    "it is unset: set one of key, tool_name, tool_version, resource, "
                    "conversation_id and all",
                )

    def _key(self, path: str, key: tool_cache_pb2.CacheKey) -> CacheKey:
        _check_tool(path, key.tool_name, key.tool_version)
        scope = _SCOPES.get(key.scope)
        if scope is None:
            raise invalid(
                f"{path}.scope",
                f"there is no scope {key.scope}: set CACHE_SCOPE_CONVERSATION (1) or "
                "CACHE_SCOPE_TENANT (2)",
            )
        if scope is CacheScope.CONVERSATION:
            _check_conversation_id(f"{path}.conversation_id", key.conversation_id)
        elif key.conversation_id:
            raise invalid(
                f"{path}.conversation_id",
                "an entry of TENANT scope has no conversation: leave the field empty, or set "
                "the scope to CACHE_SCOPE_CONVERSATION",
            )
        where = f"{path}.arguments_json"
        check_text(where, key.arguments_json, self.arguments_bytes_max)
        try:
            return cache_key(
                tenant=self.tenant,
                scope=scope,
                conversation_id=key.conversation_id,
                tool_name=key.tool_name,
                tool_version=key.tool_version,
                arguments=parse_object(key.arguments_json),
            )
        except JsonError as error:
            raise invalid(
                where,
                "it must be a JSON object that has a canonical form (RFC 8785), or {} if there "
                f"are no arguments: {error}",
            ) from None

    def _ttl(self, request: tool_cache_pb2.ToolCacheServicePutRequest) -> float:
        ttl_s, most = seconds(request.ttl), self.limits.ttl_max_s
        if not 0 < ttl_s <= most:
            given = f"{ttl_s:g} s" if request.HasField("ttl") else "unset"
            raise invalid("ttl", f"it must be above 0 s and at most {most:g} s, not {given}")
        return ttl_s


def resource_names(request: tool_cache_pb2.GetResourceVersionsRequest) -> tuple[str, ...]:
    """Returns the names of the resources whose versions to read.

    Raises:
        ServiceError: FIELD_INVALID or TOO_LARGE, naming the field.
    """
    check_count("resources", len(request.resources), RESOURCES_MAX, "names")
    for index, name in enumerate(request.resources):
        _check_resource(f"resources[{index}]", name)
    return tuple(request.resources)


def watched_after(request: tool_cache_pb2.ToolCacheServiceWatchRequest) -> int | None:
    """Returns the position after which changes are reported; None: changes from now on."""
    return request.after_position if request.HasField("after_position") else None


def _observed(
    versions: Sequence[tool_cache_pb2.ResourceVersion],
) -> tuple[ResourceVersion, ...]:
    path = "observed_versions"
    check_count(path, len(versions), RESOURCES_MAX, "resources")
    names: set[str] = set()
    for index, observed in enumerate(versions):
        where = f"{path}[{index}].resource"
        _check_resource(where, observed.resource)
        if observed.resource in names:
            raise invalid(where, f"{observed.resource[:80]!r} occurs twice: list it once")
        names.add(observed.resource)
    return tuple(ResourceVersion(observed.resource, observed.version) for observed in versions)


def _cost(cost: Duration) -> float:
    cost_s = seconds(cost)
    if not 0 <= cost_s <= COST_MAX_S:
        raise invalid("recompute_cost", f"it must be from 0 to {COST_MAX_S:g} s, not {cost_s:g} s")
    return cost_s


def _check_tool(path: str, name: str, version: str) -> None:
    _check_tool_name(f"{path}.tool_name", name)
    size = len(version.encode())
    if not 1 <= size <= VERSION_BYTES_MAX:
        raise invalid(
            f"{path}.tool_version", f"it must have 1 to {VERSION_BYTES_MAX} bytes, not {size}"
        )


def _check_tool_name(path: str, name: str) -> None:
    if not TOOL_NAME.fullmatch(name):
        raise invalid(path, f"{name[:80]!r} is not 1 to 64 characters from A-Z a-z 0-9 _ -")


def _check_conversation_id(path: str, conversation_id: str) -> None:
    if not conversation_id:
        raise invalid(path, "it is empty: name the conversation")
    if not _CONVERSATION_ID.fullmatch(conversation_id):
        raise invalid(
            path,
            f"{conversation_id[:80]!r} is not 1 to 128 characters from A-Z a-z 0-9 . _ -",
        )


def _check_resource(path: str, name: str) -> None:
    try:
        resources.check_name(name)
    except resources.ResourceError as error:
        raise invalid(path, f"{name[:80]!r} is not the name of a resource: {error}") from None
