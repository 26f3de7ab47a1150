"""A naive model of the tool cache: it follows the written rules, without any optimization.

It remembers everything that ever happened to the resources and entries of all tenants, and decides
whether an entry may be served by looking at all of it. It shares no code with the service.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol


def covers(wide: str, name: str) -> bool:
    """Whether a name whose last segment is "*" covers another name."""
    return wide.endswith((":*", "/*")) and name.startswith(wide.removesuffix("*"))


def conflicts(write: str, read: str) -> bool:
    """Whether a write to one name makes stale what has read the other."""
    return write == read or covers(write, read) or covers(read, write)


@dataclass(frozen=True)
class Key:
    """What a result is the result of. `conversation` is empty if the scope is the tenant."""

    tenant: str
    conversation: str
    tool: str
    version: str
    arguments: str


@dataclass(frozen=True)
class Stored:
    """A value that was stored.

    Attributes:
        reads: The names of the resources that it depends on.
        snapshot: The moment from which it counts: just before it began to be computed.
        stored: The moment at which it was stored.
    """

    key: Key
    value: str
    reads: tuple[str, ...]
    snapshot: int
    stored: int
    expires_at: float
    entry_version: int


class Event(Protocol):
    """Something after which older results must not be served."""

    def concerns(self, key: Key, reads: tuple[str, ...]) -> bool:
        """Whether results for this key that have read these names are stale after it."""
        ...


@dataclass(frozen=True)
class Written:
    """A resource was written."""

    tenant: str
    name: str

    def concerns(self, key: Key, reads: tuple[str, ...]) -> bool:
        own = (f"conversation:{key.conversation}",) if key.conversation else ()
        return key.tenant == self.tenant and any(
            conflicts(self.name, read) for read in (*reads, *own)
        )


@dataclass(frozen=True)
class ToolForgotten:
    """All results of a tool, or of one version of it, were made unreachable."""

    tenant: str
    tool: str
    version: str | None

    def concerns(self, key: Key, reads: tuple[str, ...]) -> bool:
        del reads
        return (
            (key.tenant, key.tool) == (self.tenant, self.tool)
            and self.version in (None, key.version)
        )  # fmt: skip


@dataclass(frozen=True)
class KeyForgotten:
    """The result for one key was made unreachable."""

    key: Key

    def concerns(self, key: Key, reads: tuple[str, ...]) -> bool:
        del reads
        return key == self.key


@dataclass(frozen=True)
class AllForgotten:
    """All results of a tenant were made unreachable."""

    tenant: str

    def concerns(self, key: Key, reads: tuple[str, ...]) -> bool:
        del reads
        return key.tenant == self.tenant


@dataclass
class CacheModel:
    """Everything that happened, with the moments at which it happened."""

    moment: int = 0
    events: list[tuple[int, Event]] = field(default_factory=list[tuple[int, Event]])
    latest: dict[Key, Stored] = field(default_factory=dict[Key, Stored])
    lost: bool = False
    """Whether entries or versions may have been lost, so that no entry has to be served."""

    def tick(self) -> int:
        """A new moment."""
        self.moment += 1
        return self.moment

    def happened(self, event: Event) -> None:
        """Notes that something happened now."""
        self.events.append((self.tick(), event))

    def store(
        self,
        key: Key,
        value: str,
        reads: tuple[str, ...],
        *,
        snapshot: int,
        expires_at: float,
        entry_version: int,
    ) -> None:
        """Notes that a value was stored now, in place of any other for its key."""
        self.latest[key] = Stored(
            key, value, reads, snapshot, self.tick(), expires_at, entry_version
        )

    def changed_since(self, moment: int, key: Key, reads: tuple[str, ...]) -> bool:
        """Whether results for this key that were computed at a moment are stale now."""
        return any(then > moment and event.concerns(key, reads) for then, event in self.events)

    def written_since(self, moment: int, tenant: str, name: str) -> bool:
        """Whether a write that conflicts with reads of this name has happened since a moment."""
        return any(
            then > moment
            and isinstance(event, Written)
            and event.tenant == tenant
            and conflicts(event.name, name)
            for then, event in self.events
        )

    def usable(self, key: Key, now: float, reads: tuple[str, ...] = ()) -> Stored | None:
        """The value that may be served for a key now, if there is one.

        The result must be fresh for the names in `reads`, too, besides its own.
        """
        stored = self.latest.get(key)
        if stored is None or stored.expires_at <= now:
            return None
        if self.changed_since(stored.snapshot, key, (*stored.reads, *reads)):
            return None
        return stored
