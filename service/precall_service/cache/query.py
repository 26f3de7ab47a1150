"""What a call of a cacheable tool looks up in the cache."""

from __future__ import annotations

from dataclasses import dataclass

from precall_service.cache.base import CacheKey, Dependency
from precall_service.cache.keys import cache_key, entry_nodes, key_node
from precall_service.domain.json import JsonError, JsonObject
from precall_service.domain.resources import conversation, read_nodes
from precall_service.domain.tools import CacheScope, ToolDeclaration


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheQuery:
    """A call as the cache sees it.

    Attributes:
        reads: The resources that the tool declares to read, for the arguments of the call.
        further: Nodes that this call depends on, but its entry does not: the node of the key, and
            with TENANT scope, the nodes of the conversation. So after an undeclared write, a
            conversation does not get older results of the tenant.
        nodes: All nodes that must not have changed since the snapshot of an entry or a run: those
            of every entry with this key, those of `reads`, and `further`.
        ttl_s: The tool's time to live.
    """

    key: CacheKey
    reads: tuple[Dependency, ...]
    further: tuple[str, ...]
    nodes: tuple[str, ...]
    ttl_s: float


def cache_query(
    tenant: str, conversation_id: str, tool: ToolDeclaration, arguments: JsonObject
) -> CacheQuery | None:
    """Returns the query of a call; None if its result cannot be cached.

    It cannot be cached if the tool does not allow it, or if the arguments have no canonical text.
    """
    return dependencies(tenant, conversation_id, tool, arguments) if tool.cacheable else None


def dependencies(
    tenant: str, conversation_id: str, tool: ToolDeclaration, arguments: JsonObject
) -> CacheQuery | None:
    """Returns what the result of a call depends on, as a query, whether or not it can be cached.

    None if the arguments have no canonical text.
    """
    try:
        key = cache_key(
            tenant=tenant,
            scope=tool.cache_scope,
            conversation_id=conversation_id,
            tool_name=tool.name,
            tool_version=tool.version,
            arguments=arguments,
        )
    except JsonError:
        return None
    reads = tuple(Dependency(name, tuple(read_nodes(name))) for name in tool.read(arguments))
    further = (key_node(key),)
    if key.scope is CacheScope.TENANT:
        further += tuple(read_nodes(conversation(conversation_id)))
    return CacheQuery(
        key=key,
        reads=reads,
        further=further,
        nodes=entry_nodes(key) + tuple(node for read in reads for node in read.nodes) + further,
        ttl_s=tool.cache_ttl_s,
    )
