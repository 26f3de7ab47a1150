"""What the tool cache holds and reports, as frozen values."""

from __future__ import annotations

import datetime
import enum
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import pydantic
import pydantic_core

from precall._events import ContentPart

Arguments: TypeAlias = Mapping[str, pydantic.JsonValue] | str
"""The arguments of a call: values by name, or a JSON object as text."""


class CacheOrigin(enum.Enum):
    """Who made an entry of the tool cache."""

    UNKNOWN = "unknown"
    """A value that only a newer server knows."""
    SPECULATIVE = "speculative"
    """A run for a predicted call."""
    COMMITTED = "committed"
    """A run for a call that the model made."""
    PUT = "put"
    """A `put`."""


@dataclass(frozen=True, slots=True)
class CacheKey:
    """Names one entry of the tool cache. The tenant is the client's."""

    tool_name: str
    """Name of the tool."""
    tool_version: str
    """Version of the tool; for one of your own, see `Conversation.tool_version`."""
    arguments_json: str
    """The arguments: a JSON object. Long arguments are left out of the keys of a `watch`."""
    conversation_id: str = ""
    """The only conversation that may use the entry. Empty: every conversation of the tenant may."""

    @property
    def scope(self) -> Literal["conversation", "tenant"]:
        """Where the entry may be used, as in the option `cache_scope` of a tool."""
        return "conversation" if self.conversation_id else "tenant"

    @property
    def arguments(self) -> pydantic.JsonValue:
        """`arguments_json` as Python values; None if it is empty."""
        return pydantic_core.from_json(self.arguments_json) if self.arguments_json else None

    @classmethod
    def of_call(
        cls, tool_name: str, tool_version: str, arguments: Arguments, *, conversation_id: str = ""
    ) -> CacheKey:
        """Returns the key of a call.

        Raises:
            TypeError: The arguments are not a mapping, or cannot be converted to JSON.
            ValueError: The arguments contain NaN or an infinity.
        """
        return cls(tool_name, tool_version, _arguments_json(arguments), conversation_id)


@dataclass(frozen=True, slots=True)
class ResourceVersion:
    """A resource that tools read and write, and its version at one moment.

    Compare versions for equality only.
    """

    resource: str
    """The name, a path such as `file:/a/b`. `file:/a/*` stands for everything below `file:/a`."""
    version: int
    """It changes with each write that makes results stale which have read the resource."""


@dataclass(frozen=True, slots=True)
class ResourceVersions:
    """The versions of resources at one moment: what a result depends on."""

    versions: tuple[ResourceVersion, ...]
    """One version for each name, in the order of the names."""
    position: int | None = None
    """The position at which they were read. With it, `put` also notices other changes since then,
    such as an invalidation of the tool. A `watch` can start there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheEntry:
    """A stored result."""

    key: CacheKey
    """The call that this is the result of."""
    result_json: str
    """The result, as JSON text."""
    entry_version: int
    """Grows by one when the result is replaced."""
    resource_versions: tuple[ResourceVersion, ...] = ()
    """The resources that it depends on, with their versions at the time when it was stored."""
    execution_id: str = ""
    """The run that made it; empty for a `put`."""
    origin: CacheOrigin = CacheOrigin.UNKNOWN
    """Who made it."""
    created_at: datetime.datetime
    """When it was stored, by the server's clock."""
    expires_at: datetime.datetime
    """When it stops being usable, by the server's clock."""
    recompute_cost_s: float | None = None
    """How long it takes to compute it again; None if unknown."""
    content: tuple[ContentPart, ...] = ()
    """What the model sees instead of the JSON text. Empty: the JSON text."""

    @property
    def result(self) -> pydantic.JsonValue:
        """`result_json` as Python values."""
        return pydantic_core.from_json(self.result_json)


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheTarget:
    """The entries that were made unreachable: exactly one field is set, as in `invalidate`."""

    key: CacheKey | None = None
    """One entry."""
    tool: str | None = None
    """All entries of this tool."""
    tool_version: tuple[str, str] | None = None
    """All entries of one version of a tool: its name, and the version."""
    resource: str | None = None
    """All entries that a write to this resource makes stale."""
    conversation_id: str | None = None
    """All entries of this conversation."""
    everything: bool = False
    """All entries of the tenant."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheEntryStored:
    """A change of the tool cache: an entry was stored."""

    position: int
    """The place of the change in the order of all changes of the tenant."""
    changed_at: datetime.datetime
    """When it happened, by the server's clock."""
    key: CacheKey
    """The key of the entry."""
    entry_version: int
    """The version of the entry."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheEntriesInvalidated:
    """A change of the tool cache: entries were made unreachable."""

    position: int
    """The place of the change in the order of all changes of the tenant."""
    changed_at: datetime.datetime
    """When it happened, by the server's clock."""
    target: CacheTarget
    """Which entries."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheWatchGap:
    """Changes of the tool cache before this position were lost: read again what you depend on."""

    position: int
    """The place of the gap in the order of all changes of the tenant."""
    changed_at: datetime.datetime
    """When it was noticed, by the server's clock."""


CacheChange: TypeAlias = CacheEntryStored | CacheEntriesInvalidated | CacheWatchGap
"""What `ToolCache.watch` yields."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheStats:
    """What the tool cache holds for a tenant, and what the server has counted since its start.

    `entries`, `bytes` and `evictions` are about the cache store, which several servers may share.
    """

    entries: int = 0
    """Entries in the store. Some may be stale."""
    bytes: int = 0
    """Their size in bytes."""
    hits: int = 0
    """Reads that found a usable entry."""
    misses: int = 0
    """Reads that found no usable entry."""
    stale: int = 0
    """Those of the misses that found a stale entry."""
    joined: int = 0
    """Calls that shared the run of an equal call."""
    evictions: int = 0
    """Entries that were dropped to make room."""
    time_saved_s: float = 0.0
    """How long the handlers would have taken for the hits."""
    store_failures: int = 0
    """Requests to the cache store that failed or took too long."""
    store_available: bool = False
    """Whether the server can reach the cache store. If not, every read is a miss."""


def _arguments_json(arguments: Arguments) -> str:
    if isinstance(arguments, str):
        return arguments
    if not isinstance(arguments, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(
            f"the arguments must be a mapping or JSON text, not {type(arguments).__name__}"
        )
    return json.dumps(dict(arguments), ensure_ascii=False, allow_nan=False)
