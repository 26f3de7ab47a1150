"""Calls, names and acts in progress, from which property tests of the cache choose."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from hypothesis import strategies as st

from precall_service.cache.base import CacheKey, Dependency, ResourceVersion
from precall_service.cache.keys import cache_key
from precall_service.domain.json import parse_object
from precall_service.domain.resources import read_nodes
from precall_service.domain.tools import CacheScope
from tests.support.cache_model import Key

KEY = Key("ann", "conv-1", "look", "1", '{"n":0}')
KEYS = st.sampled_from(
    [
        *[KEY] * 4,
        *[replace(KEY, conversation="")] * 3,
        replace(KEY, tenant="bob"),
        replace(KEY, tenant="bob", conversation=""),
        replace(KEY, conversation="conv-2"),
        replace(KEY, tool="list"),
        replace(KEY, version="2"),
        replace(KEY, arguments='{"n":1}'),
    ]
)
TENANT = st.sampled_from(["ann", "ann", "ann", "bob"])
NAMES = st.sampled_from(
    [
        *("file:/a", "file:/a/b", "file:/a/b/c", "file:/a/*", "file:/a/b/*", "file:/*", "file:*"),
        *("file:/d", "order:1", "order:2", "order:*", "conversation:conv-1"),
    ]
)
READS = st.lists(NAMES, max_size=2, unique=True).map(tuple)
WHICH = st.integers(0, 11)


@dataclass
class Reading:
    """A run that has begun, or versions that a client has read before it computes."""

    key: Key
    reads: tuple[str, ...]
    moment: int
    snapshot: int
    versions: tuple[ResourceVersion, ...] = ()


@dataclass
class Announced:
    """A write that has begun."""

    tenant: str
    name: str
    write_id: str


@dataclass
class Seen:
    """The highest numbers that were given out."""

    position: dict[str, int] = field(default_factory=dict[str, int])
    entry_version: dict[Key, int] = field(default_factory=dict[Key, int])


def dependency(name: str) -> Dependency:
    return Dependency(name, tuple(read_nodes(name)))


def store_key(key: Key) -> CacheKey:
    return cache_key(
        tenant=key.tenant,
        scope=CacheScope.CONVERSATION if key.conversation else CacheScope.TENANT,
        conversation_id=key.conversation,
        tool_name=key.tool,
        tool_version=key.version,
        arguments=parse_object(key.arguments),
    )
