"""What a fake model says: one entry per step of a turn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import pydantic

from precall._events import ToolCallOutcome


@dataclass(frozen=True, slots=True)
class Say:
    """The model answers, which ends the turn."""

    text: str
    """The answer."""
    reasoning: str = ""
    """What it thinks before."""


@dataclass(frozen=True, slots=True)
class Call:
    """The model calls one tool."""

    tool_name: str
    """Name of the tool."""
    arguments: Mapping[str, pydantic.JsonValue] = field(
        default_factory=dict[str, pydantic.JsonValue]
    )
    """Its arguments, sent as they are: also those that do not fit."""
    text: str = ""
    """What it says before."""
    reasoning: str = ""
    """What it thinks before."""


@dataclass(frozen=True, slots=True)
class Parallel:
    """The model calls several tools in one step; their handlers run side by side."""

    calls: Sequence[Call]
    """The calls."""


@dataclass(frozen=True, slots=True)
class Limit:
    """A limit cuts the turn while the model answers; the text so far stands, and nothing fails."""

    reason: str = "LIMIT_REACHED"
    """Which: LIMIT_REACHED (tokens or steps), TURN_TIMEOUT, CONTEXT_WINDOW_EXCEEDED."""
    text: str = ""
    """What it says before."""
    message: str = "the script says so"
    """What the error says."""


@dataclass(frozen=True, slots=True)
class Fail:
    """The turn fails."""

    reason: str
    """Name of a `precall.v1.ErrorReason` without its prefix, such as ENGINE_UNAVAILABLE."""
    message: str = "the script says so"
    """What the error says."""
    retry_after_s: float | None = None
    """After which a retry may succeed."""


@dataclass(frozen=True, slots=True)
class Refuse:
    """The frame is refused: as the first entry of a turn, its StartTurn."""

    reason: str
    """Name of a `precall.v1.ErrorReason` without its prefix, such as FIELD_INVALID."""
    message: str = "the script says so"
    """What the error says."""
    retry_after_s: float | None = None
    """After which a retry may succeed."""


@dataclass(frozen=True, slots=True)
class Disconnect:
    """The stream ends: without a reason it breaks, as when the server's machine goes away."""

    reason: str = ""
    """Name of a `precall.v1.ErrorReason` without its prefix, such as DRAINING."""
    message: str = "the script broke the stream"
    """What the error says."""
    retry_after_s: float | None = None
    """After which a retry may succeed, where there is a reason."""


@dataclass(frozen=True, slots=True)
class Hang:
    """The model says nothing more until the turn is cancelled."""

    text: str = ""
    """What it says before."""


Step: TypeAlias = Say | Call | Parallel | Limit | Fail | Refuse | Disconnect | Hang
"""One thing that the model or the server does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolResult:
    """How a call of the script ended, as the model would see it."""

    tool_name: str
    """Name of the tool."""
    arguments: Mapping[str, pydantic.JsonValue]
    """What it was called with."""
    outcome: ToolCallOutcome
    """How it ended."""
    value: pydantic.JsonValue = None
    """What the handler returned, with RESULT."""
    error_type: str = ""
    """Kind of the failure, with ERROR."""
    error_message: str = ""
    """What went wrong, with ERROR."""


Entry: TypeAlias = Step | Callable[[Sequence[ToolResult]], Step]
"""A step, or a function that makes it from the turn's tool results so far."""
