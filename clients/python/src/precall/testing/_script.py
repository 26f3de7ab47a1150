"""Scripts of a fake model: one entry per step of a turn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import pydantic

from precall._events import DiscardReason, Predictor, ToolCallOutcome


@dataclass(frozen=True, slots=True)
class Say:
    """The model answers, which ends the turn."""

    text: str
    """The answer."""
    reasoning: str = ""
    """The reasoning before it."""


@dataclass(frozen=True, slots=True)
class Call:
    """The model calls one tool."""

    tool_name: str
    """Name of the tool."""
    arguments: Mapping[str, pydantic.JsonValue] = field(
        default_factory=dict[str, pydantic.JsonValue]
    )
    """Its arguments. If they do not fit the tool's schema, the handler does not run, and the call
    ends as ERROR; the model of a server would be told why, and go on."""
    text: str = ""
    """The text before it."""
    reasoning: str = ""
    """The reasoning before it."""


@dataclass(frozen=True, slots=True)
class Parallel:
    """The model calls several tools in one step; their handlers run concurrently."""

    calls: Sequence[Call]
    """The calls."""


@dataclass(frozen=True, slots=True)
class Limit:
    """A limit ends the turn while the model answers; the text so far is the answer."""

    reason: str = "LIMIT_REACHED"
    """The limit: LIMIT_REACHED (tokens or steps), TURN_TIMEOUT, CONTEXT_WINDOW_EXCEEDED."""
    text: str = ""
    """The text before it."""
    message: str = "the script says so"
    """The message of the error."""


@dataclass(frozen=True, slots=True)
class NoCall:
    """The model's message contains no call that could be run, although it meant or had to make one.

    The turn ends as NO_CALL: the client raises a `precall.NoCallError`.
    """

    reason: str = "CALL_LOST"
    """Why: CALL_LOST, CALL_MISSING or CALL_STOPPED."""
    text: str = ""
    """The text of the message."""
    reasoning: str = ""
    """The reasoning of the message."""
    stray_call: str = "lost"
    """With CALL_LOST, where the call was lost: "open", "lost" or "reasoning"."""
    message: str = "the script says so"
    """The message of the error."""


@dataclass(frozen=True, slots=True)
class Fail:
    """The turn fails."""

    reason: str
    """Name of a `precall.v1.ErrorReason` without its prefix, such as ENGINE_UNAVAILABLE."""
    message: str = "the script says so"
    """The message of the error."""
    retry_after_s: float | None = None
    """Seconds after which a retry may succeed; None: a retry does not help."""


@dataclass(frozen=True, slots=True)
class Refuse:
    """A frame is refused. As the first entry of a turn, it refuses the StartTurn."""

    reason: str
    """Name of a `precall.v1.ErrorReason` without its prefix, such as FIELD_INVALID."""
    message: str = "the script says so"
    """The message of the error."""
    retry_after_s: float | None = None
    """Seconds after which a retry may succeed; None: a retry does not help."""


@dataclass(frozen=True, slots=True)
class Disconnect:
    """The stream ends. Without a reason it breaks, as when the server's machine is lost."""

    reason: str = ""
    """Name of a `precall.v1.ErrorReason` without its prefix, such as DRAINING."""
    message: str = "the script broke the stream"
    """The message of the error."""
    retry_after_s: float | None = None
    """Seconds after which a retry may succeed; only sent with a reason."""


@dataclass(frozen=True, slots=True)
class Hang:
    """The model generates nothing more until the turn is cancelled."""

    text: str = ""
    """The text before it."""


@dataclass(frozen=True, slots=True)
class Predict:
    """The server expects the next step to make this call, and runs it early.

    It runs nothing early if speculation was granted as SHADOW, or if the tool is not both
    `read_only` and `speculation_safe`. If speculation was granted as OFF or without this predictor,
    or if the arguments do not fit the tool's schema, nothing happens at all. If the next step makes
    the call, the prediction is confirmed, and the early run answers the call. Otherwise the
    prediction is discarded, and its run cancelled.
    """

    tool_name: str
    """Name of the tool."""
    arguments: Mapping[str, pydantic.JsonValue] = field(
        default_factory=dict[str, pydantic.JsonValue]
    )
    """The arguments."""
    predictor: Predictor = Predictor.HISTORY
    """The predictor that it comes from."""
    confidence: float = 0.9
    """The predictor's estimate of its probability."""
    wait: bool = False
    """Whether the script waits until the handler has ended or has reported progress."""
    discard: DiscardReason | None = None
    """Discards the prediction at the end of the next step, whether or not the step makes the call,
    which is then run again."""


Step: TypeAlias = Say | Call | Parallel | Limit | NoCall | Fail | Refuse | Disconnect | Hang
"""One step of a script."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolResult:
    """How a call of a script ended, as the model would see it."""

    tool_name: str
    """Name of the tool."""
    arguments: Mapping[str, pydantic.JsonValue]
    """The arguments of the call."""
    outcome: ToolCallOutcome
    """How it ended."""
    value: pydantic.JsonValue = None
    """With RESULT: the value that the handler returned."""
    error_type: str = ""
    """With ERROR: the kind of the failure, as the model reads it: the type of the handler's
    exception, or else the server's reason in lower case, such as "arguments_invalid"."""
    error_message: str = ""
    """With ERROR: the message of the failure."""


Entry: TypeAlias = Step | Predict | Callable[[Sequence[ToolResult]], Step | Predict]
"""A step, a prediction of the next one, or a function that returns either, given the results of the
turn so far."""
