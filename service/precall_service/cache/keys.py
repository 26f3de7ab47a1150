"""Makes the keys of entries, and the nodes on which entries depend besides their resources."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from functools import lru_cache

from precall_service.cache.base import CacheKey, Change, ChangeKind
from precall_service.domain import resources
from precall_service.domain.json import JsonObject, canonical, dump
from precall_service.domain.tools import CacheScope

LOGGED_ARGUMENTS_BYTES_MAX = 4096
"""Longer arguments are left out of the keys in the log of changes."""

_ALL = "a:"
"""The node of every entry of a tenant."""


def cache_key(
    *,
    tenant: str,
    scope: CacheScope,
    conversation_id: str,
    tool_name: str,
    tool_version: str,
    arguments: JsonObject,
) -> CacheKey:
    """Returns the key of a call. With TENANT scope, the conversation is ignored.

    Raises:
        JsonError: the arguments are not I-JSON, so they have no canonical text.
    """
    text = canonical(arguments)
    if scope is CacheScope.TENANT:
        conversation_id = ""
    # Texts that may contain anything follow their length, so that different keys stay different.
    head = (
        f"{scope.value} {tool_name} {len(tool_version)}:{tool_version}"
        f" {len(conversation_id)}:{conversation_id} "
    )
    return CacheKey(
        tenant=tenant,
        scope=scope,
        conversation_id=conversation_id,
        tool_name=tool_name,
        tool_version=tool_version,
        arguments_json=text.decode(),
        digest=hashlib.sha256(head.encode() + text).digest(),
    )


def entry_nodes(key: CacheKey) -> tuple[str, ...]:
    """Returns the nodes that every entry with this key has. Invalidations advance them.

    An entry of CONVERSATION scope also depends on its conversation.
    """
    return _entry_nodes(key.tool_name, key.tool_version, key.scope, key.conversation_id)


@lru_cache(4096)  # entries with equal nodes share them
def _entry_nodes(
    tool_name: str, tool_version: str, scope: CacheScope, conversation_id: str
) -> tuple[str, ...]:
    nodes = (_ALL, _tool(tool_name), _tool_version(tool_name, tool_version))
    if scope is CacheScope.CONVERSATION:
        return (*nodes, *resources.read_nodes(resources.conversation(conversation_id)))
    return nodes


def key_node(key: CacheKey) -> str:
    """Returns the node of one key.

    No entry depends on it, since the invalidation of a key removes the entry. It prevents results
    that are being computed during the invalidation from being stored.
    """
    return f"k:{key.digest.hex()}"


def invalidated_nodes(change: Change) -> list[str]:
    """Returns the nodes that an invalidation advances; none for the invalidation of one key."""
    match change.kind, change.names:
        case ChangeKind.TOOL, (name,):
            return [_tool(name)]
        case ChangeKind.TOOL_VERSION, (name, version):
            return [_tool_version(name, version)]
        case ChangeKind.RESOURCE, (name,):
            return resources.write_nodes(name)
        case ChangeKind.CONVERSATION, (conversation_id,):
            return resources.write_nodes(resources.conversation(conversation_id))
        case ChangeKind.ALL, ():
            return [_ALL]
        case _:
            return []


def logged(key: CacheKey) -> CacheKey:
    """Returns a key as the log of changes keeps it: without long arguments."""
    if len(key.arguments_json.encode()) <= LOGGED_ARGUMENTS_BYTES_MAX:
        return key
    return replace(key, arguments_json="")


def _tool(name: str) -> str:
    return f"t:{name}"


def _tool_version(name: str, version: str) -> str:
    return f"v:{name}:{dump(version)}"  # a version may contain control characters, a node may not
