"""What a cache store holds, and the protocol of a store.

For each tenant, a store keeps entries by key, versions of nodes (`domain.resources`), a log of
changes, and a log of what is learned (`cache.records`). It does not know what the nodes and the
learned records mean. Each of its methods is atomic.

A store gives every change of a tenant a *position*: an integer that grows and never repeats, not
even after a restart that lost everything. The version of a node is the position of its last change.
The *snapshot* of an entry is the position at which the computation of its result started. An entry
is fresh if none of its nodes has changed since its snapshot.
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
    """Where an entry came from. The values are those of the wire contract."""

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
    """Versions of resources, and the position at which they were read (None if unknown)."""

    versions: tuple[ResourceVersion, ...] = ()
    position: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """A result to store. `cost_s` is the time that it takes to compute it again."""

    result_json: str
    content: str
    execution_id: str
    origin: Origin
    cost_s: float
    ttl_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A stored result. `resources` have the versions that they had when it was stored."""

    value: Value
    entry_version: int
    resources: tuple[ResourceVersion, ...]
    age_s: float
    expires_in_s: float


@dataclass(frozen=True, slots=True)
class Dependency:
    """A resource that a result depends on, with the nodes that a read of it has."""

    resource: str
    nodes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lookup:
    """What a store has for a key.

    Attributes:
        entry: The entry, if it is usable: fresh and not expired.
        stale: Whether there is an entry that is stale.
        snapshot: The current position: the snapshot of a result whose computation starts now.
        changed_at: The position of the last change to the requested nodes.
    """

    entry: Entry | None
    stale: bool
    snapshot: int
    changed_at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """When a value may be stored.

    Attributes:
        snapshot: No node of the value may have changed since this position. None: not checked.
        nodes: Further nodes that must not have changed since the snapshot.
        observed: Each of these resources must have exactly this version, which the store must have
            given out.
        entry_version: The version that the usable entry for the key must have; 0: there must be no
            usable entry. None: not checked.
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
    """The value was not stored: this resource has changed, or if it is empty, another node."""

    resource: str


@dataclass(frozen=True, slots=True)
class Mismatched:
    """The value was not stored: the usable entry has this version (0 if there is none)."""

    entry_version: int


@dataclass(frozen=True, slots=True)
class NotYet:
    """The value was not stored: the observed version of this resource was never given out.

    If `resource` is empty, the snapshot was never given out.
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

    STORED and KEY have a `key`, and STORED also has an `entry_version`. The others have `names`:
    the tool; the tool and its version; the resource; or the conversation. ALL has none.
    """

    kind: ChangeKind
    key: CacheKey | None = None
    entry_version: int = 0
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LoggedChange:
    """A change with its position and its time, in seconds since 1970.

    Without a `change`, it says that changes before this position were lost.
    """

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
    """How much a store holds for a tenant. `bytes` is the size of the entries."""

    entries: int
    bytes: int
    evictions: int


class CacheStore(Protocol):
    """Keeps entries, versions and changes. Every method is atomic.

    Every asynchronous method raises StoreUnavailableError if the store cannot be reached or does
    not answer in time. The change may then have been made or not.
    """

    def concerns(self, tenant: str) -> bool:
        """Returns whether a write of this tenant can make anything stale.

        It cannot as long as the store has given out no position for the tenant. This check costs
        almost nothing, so that writes of a tenant that does not use the cache are not slowed down.
        Raises nothing.
        """
        ...

    async def look_up(self, key: CacheKey, nodes: Sequence[str]) -> Lookup:
        """Returns the entry if it is usable, and the current position.

        The entry is fresh if neither its own nodes nor `nodes` have changed since its snapshot.
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
        """Stores a value if the conditions hold. It depends on `nodes` and on the dependencies.

        The version of the entry grows by one. If there is no entry for the key, the version starts
        at a number that the key never had. The snapshot of the entry is that of the conditions, or
        else the current position.
        """
        ...

    async def versions(self, tenant: str, dependencies: Sequence[Dependency]) -> Versions:
        """Returns the version of each resource: the position of the last change to its nodes."""
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
        """Gives the nodes a new version, because a write to them starts.

        If the write is not settled within this time (its server may have died), a store that
        several servers share gives the nodes a new version once more, and logs the change.
        """
        ...

    async def drop(self, key: CacheKey, nodes: Sequence[str] = ()) -> int:
        """Removes the entry, gives the nodes a new version, logs the change, returns its position.

        The nodes are those that are checked when a value that is being computed for the key is put.
        """
        ...

    def watch(self, tenant: str, after: int | None) -> AsyncGenerator[LoggedChange]:
        """Yields the changes after a position in order, and then later ones as they happen.

        Without a position, it yields the changes from the first iteration on. If changes are
        missing, because they are no longer in the log or the position was never given out, it
        yields a LoggedChange without a change. On cancel or close: its resources are released.
        """
        ...

    async def size(self, tenant: str) -> Size:
        """Returns how much the store holds for a tenant."""
        ...

    async def remember(self, tenant: str, record: bytes) -> None:
        """Adds a record to the log of what is learned about a tenant (`cache.records`).

        The newest records are kept. One that is larger than RECORD_BYTES_MAX is not.
        """
        ...

    async def recall(self, tenant: str, after: int) -> list[tuple[int, bytes]]:
        """Returns a page of that log: the oldest records after a number, with their numbers.

        Numbers start at 1 and grow. After the newest record, the page is empty.
        """
        ...

    async def close(self) -> None:
        """Releases the resources of the store, in a bounded time."""
        ...
