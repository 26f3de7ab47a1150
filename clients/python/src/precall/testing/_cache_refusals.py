"""Refuses requests to the tool cache as a precall server does, with its default limits."""

from __future__ import annotations

import re
from collections.abc import Sequence

from precall import _frames
from precall.testing._fields import TOOL_NAME, check_count, check_text, content_text, invalid
from precall.testing._service.domain import resources
from precall.testing._service.domain.json import JsonError, canonical, parse, parse_object
from precall.v1 import tool_cache_pb2, tool_pb2

RESOURCES_MAX = 64
VERSION_BYTES_MAX = 128
ENTRY_BYTES_MAX = 1 << 20
COST_MAX_S = 86_400.0
TTL_MAX_S = 7 * 86_400.0

_CONVERSATION_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


def check_get(request: tool_cache_pb2.ToolCacheServiceGetRequest, arguments_max: int) -> None:
    """Raises RefusedError if no server takes the request."""
    if not request.HasField("key"):
        raise invalid("key", "it is unset: name the entry to read")
    _check_key("key", request.key, arguments_max)


def check_put(request: tool_cache_pb2.ToolCacheServicePutRequest, arguments_max: int) -> None:
    """Raises RefusedError if no server takes the request."""
    if not request.HasField("key"):
        raise invalid("key", "it is unset: name the call that this is the result of")
    _check_key("key", request.key, arguments_max)
    check_text("result_json", request.result_json, ENTRY_BYTES_MAX)
    try:
        parse(request.result_json)
    except JsonError as error:
        raise invalid("result_json", f"it must be JSON text: {error}") from None
    content = content_text("content", request.content)
    size = len((request.result_json + content).encode())
    cost_s = _frames.seconds(request.recompute_cost)
    if not 0 <= cost_s <= COST_MAX_S:
        problem = f"it must be from 0 to {COST_MAX_S:g} s, not {cost_s:g} s"
        raise invalid("recompute_cost", problem)
    ttl_s = _frames.seconds(request.ttl)
    if not 0 < ttl_s <= TTL_MAX_S:
        raise invalid("ttl", f"it must be above 0 s and at most {TTL_MAX_S:g} s, not {ttl_s:g} s")
    _check_observed([observed.resource for observed in request.observed_versions])
    check_count("result_json", size, ENTRY_BYTES_MAX, "bytes with its content")


def check_target(target: tool_cache_pb2.InvalidationTarget, arguments_max: int) -> None:
    """Raises RefusedError if no server takes the request."""
    match target.WhichOneof("target"):
        case "key":
            _check_key("target.key", target.key, arguments_max)
        case "tool_name":
            _check_tool_name("target.tool_name", target.tool_name)
        case "tool_version":
            tool = target.tool_version
            _check_tool("target.tool_version", tool.tool_name, tool.tool_version)
        case "resource":
            _check_resource("target.resource", target.resource)
        case "conversation_id":
            _check_conversation_id("target.conversation_id", target.conversation_id)
        case "all":
            pass
        case None:
            raise invalid("target", "it is unset")


def check_resources(names: Sequence[str]) -> None:
    """Raises RefusedError if no server returns the versions of these resources."""
    check_count("resources", len(names), RESOURCES_MAX, "names")
    for index, name in enumerate(names):
        _check_resource(f"resources[{index}]", name)


def _check_observed(names: Sequence[str]) -> None:
    check_count("observed_versions", len(names), RESOURCES_MAX, "resources")
    for index, name in enumerate(names):
        field = f"observed_versions[{index}].resource"
        _check_resource(field, name)
        if name in names[:index]:
            raise invalid(field, f"{name[:80]!r} occurs twice: list it once")


def _check_key(path: str, key: tool_cache_pb2.CacheKey, arguments_max: int) -> None:
    _check_tool(path, key.tool_name, key.tool_version)
    if key.scope not in tool_pb2.CacheScope.values():
        raise invalid(f"{path}.scope", f"there is no scope {key.scope}")
    if key.scope != tool_pb2.CACHE_SCOPE_TENANT:
        _check_conversation_id(f"{path}.conversation_id", key.conversation_id)
    elif key.conversation_id:
        problem = "an entry of TENANT scope has no conversation: leave the field empty"
        raise invalid(f"{path}.conversation_id", problem)
    field = f"{path}.arguments_json"
    check_text(field, key.arguments_json, arguments_max)
    try:
        canonical(parse_object(key.arguments_json))
    except JsonError as error:
        problem = f"it must be a JSON object that has a canonical form (RFC 8785): {error}"
        raise invalid(field, problem) from None


def _check_tool(path: str, name: str, version: str) -> None:
    _check_tool_name(f"{path}.tool_name", name)
    size = len(version.encode())
    if not 1 <= size <= VERSION_BYTES_MAX:
        problem = f"it must have 1 to {VERSION_BYTES_MAX} bytes, not {size}"
        raise invalid(f"{path}.tool_version", problem)


def _check_tool_name(field: str, name: str) -> None:
    if not TOOL_NAME.fullmatch(name):
        raise invalid(field, f"{name[:80]!r} is not 1 to 64 characters from A-Z a-z 0-9 _ -")


def _check_conversation_id(field: str, conversation_id: str) -> None:
    if not _CONVERSATION_ID.fullmatch(conversation_id):
        problem = f"{conversation_id[:80]!r} is not 1 to 128 characters from A-Z a-z 0-9 . _ -"
        raise invalid(field, problem)


def _check_resource(field: str, name: str) -> None:
    try:
        resources.check_name(name)
    except resources.ResourceError as error:
        raise invalid(field, f"{name[:80]!r} is not the name of a resource: {error}") from None
