"""What a cache store holds, and the protocol of a store.

A store keeps, for each tenant, entries by key, versions of nodes (`domain.resources`), and a log of
changes. It does not know what the nodes mean. Each of its methods is atomic.

A store gives out *positions*: integers that grow with every change of a tenant, and that never
repeat, not even after a restart that lost everything. The version of a node is the position of its
last change. An entry is fresh if none of its nodes has changed since the position at which the
result began to be computed, the *snapshot*.
"""

from __future__ import annotations

import enum
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Protocol

from precall_service.domain.tools import CacheScope


class StoreUnavailableError(Exception):
    """The store cannot be reached, or did not answer in time."""


class Origin(enum.Enum):
    """Where an entry came from: the number is the one on the wire."""

    SPECULATIVE = 1
    COMMITTED = 2
    PUT = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheKey:
    """Names one entry.

    Attributes:
        conversation_id: Empty with TENANT scope.
        arguments_json: The canonical text of the arguments (RFC 8785).
        digest: The SHA-256 of everything except the tenant.
    """

    tenant: str
    scope: CacheScope
    conversation_id: str
    tool_name: str
    tool_version: str
    arguments_json: str
    digest: bytes


@dataclass(frozen=True, slots=True)
class ResourceVersion:
    """A resource and its version at one moment."""

    resource: str
    version: int


@dataclass(frozen=True, slots=True)
class Observation:
    """The versions of resources, and the position at which they were read; None if unknown."""

    versions: tuple[ResourceVersion, ...] = ()
    position: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """A result to store. `cost_s` is the time that it would take to compute it again."""

    result_json: str
    content: str
    execution_id: str
    origin: Origin
    cost_s: float
    ttl_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A stored result. `resources` have the versions from when it was stored."""

    value: Value
    entry_version: int
    resources: tuple[ResourceVersion, ...]
    age_s: float
    expires_in_s: float


@dataclass(frozen=True, slots=True)
class Dependency:
    """A resource that a result depends on, with the nodes of a read of it."""

    resource: str
    nodes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lookup:
    """What a store has for a key.

    Attributes:
        entry: The entry, if it is fresh and has not expired.
        stale: Whether there is an entry that is not fresh.
        snapshot: The position now. A result that is computed from now on has this snapshot.
        changed_at: The position of the last change of the nodes that were asked for.
    """

    entry: Entry | None
    stale: bool
    snapshot: int
    changed_at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """When a value may be stored.

    Attributes:
        snapshot: No node of the value may have changed since this position.
        nodes: Nodes besides those of the value that must not have changed since the snapshot.
        observed: Each of these resources must have exactly this version. The positions of all must
            have been given out.
        entry_version: The version of the usable entry for the key, 0 if there must be none; None:
            any.
    """

    snapshot: int | None = None
    nodes: tuple[str, ...] = ()
    observed: tuple[ResourceVersion, ...] = ()
    entry_version: int | None = None


@dataclass(frozen=True, slots=True)
class Stored:
    """The value was stored, as this version of the entry."""

    entry_version: int


@dataclass(frozen=True, slots=True)
class Changed:
    """The value was not stored: this resource, or a node if it is empty, has changed."""

    resource: str


@dataclass(frozen=True, slots=True)
class Mismatched:
    """The value was not stored: the usable entry has this version, 0 if there is none."""

    entry_version: int


@dataclass(frozen=True, slots=True)
class NotYet:
    """The value was not stored: the version observed of this resource was never given out.

    If the resource is empty, it was the snapshot that was never given out.
    """

    resource: str


class ChangeKind(enum.Enum):
    """What a change did: stored an entry, or made entries unreachable."""

    STORED = "stored"
    KEY = "key"
    TOOL = "tool"
    TOOL_VERSION = "tool_version"
    RESOURCE = "resource"
    CONVERSATION = "conversation"
    ALL = "all"


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A change, as Watch reports it.

    STORED and KEY have a `key`, STORED an `entry_version`; the others have the `names` that they
    are about: of the tool, of the tool and its version, of the resource, or of the conversation.
    """

    kind: ChangeKind
    key: CacheKey | None = None
    entry_version: int = 0
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LoggedChange:
    """A change with its position and its time, in seconds since 1970. None: changes were lost."""

    position: int
    time_s: float
    change: Change | None


@dataclass(frozen=True, slots=True)
class Versions:
    """The versions of resources, and the position at which they were read."""

    position: int
    versions: list[int]


@dataclass(frozen=True, slots=True)
class Size:
    """What a store holds of a tenant. The bytes are those of the entries."""

    entries: int
    bytes: int
    evictions: int


class CacheStore(Protocol):
    """Keeps entries, versions and changes. Every method is atomic.

    Every method raises StoreUnavailableError if the store cannot be reached or does not answer in
    time. It is then unknown whether a change was made.
    """

    def concerns(self, tenant: str) -> bool:
        """Returns whether a write of this tenant may make anything stale.

        It may not while the store has given out no position of the tenant. This costs nothing, so
        that a tenant without a use for the cache has no costs either. Raises nothing.
        """
        ...

    async def look_up(self, key: CacheKey, nodes: Sequence[str]) -> Lookup:
        """Returns the entry if it is usable.

        It is fresh if neither its own nodes nor `nodes` have changed since its snapshot.
        """
        ...

    async def put(
        self,
        key: CacheKey,
        value: Value,
        nodes: Sequence[str],
        dependencies: Sequence[Dependency],
        conditions: Conditions,
    ) -> Stored | Changed | Mismatched | NotYet:
        """Stores a value whose nodes are `nodes` and those of the dependencies, if it may be.

        The entry's version grows by one. A key without an entry begins at a version that it never
        had. With a snapshot, the entry gets that snapshot, else the position now.
        """
        ...

    async def versions(self, tenant: str, dependencies: Sequence[Dependency]) -> Versions:
        """Returns the version of each resource: the position of the last change of its nodes."""
        ...

    async def advance(
        self, tenant: str, nodes: Sequence[str], change: Change | None, *, settles: str = ""
    ) -> int:
        """Gives the nodes a new version, logs the change, and returns its position.

        `settles` is the id of an announced write that has ended.
        """
        ...

    async def announce(
        self, tenant: str, write_id: str, nodes: Sequence[str], change: Change, within_s: float
    ) -> None:
        """Gives the nodes a new version, because a write to them begins.

        If the write is not settled within this time, since its server has died, the store advances
        the nodes once more by itself.
        """
        ...

    async def drop(self, key: CacheKey, nodes: Sequence[str] = ()) -> int:
        """Removes the entry, gives the nodes a new version, logs the change, returns its position.

        The nodes are for those who are just computing a value for the key.
        """
        ...

    def watch(self, tenant: str, after: int | None) -> AsyncGenerator[LoggedChange]:
        """Yields the changes after a position in their order, and later ones as they happen.

        None: those that happen from the first iteration on. Where changes are missing, because they
        are no longer in the log or the position was never given out, it yields one without a
        change. On cancel or close: it gives up what it holds.
        """
        ...

    async def size(self, tenant: str) -> Size:
        """Returns what the store holds of a tenant."""
        ...

    async def close(self) -> None:
        """Gives up what the store holds, in a bounded time."""
        ...
