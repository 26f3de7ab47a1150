"""What a client is told about a turn, in the order in which it happens."""

from __future__ import annotations

from dataclasses import dataclass

from precall_service.domain.errors import ServiceError
from precall_service.domain.turn import (
    CallOutcome,
    StepFinish,
    TokenUsage,
    TurnOutcome,
    TurnReport,
)


@dataclass(frozen=True, slots=True)
class TurnQueued:
    """The turn waits for admission; `position` turns start before it."""

    position: int


@dataclass(frozen=True, slots=True)
class TurnStarted:
    """The turn was admitted after `waited_s` seconds."""

    waited_s: float


@dataclass(frozen=True, slots=True)
class StepStarted:
    """An assistant message begins, on a prompt of so many tokens."""

    step: int
    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class TextDelta:
    """A piece of the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """A piece of the model's reasoning."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCallStarted:
    """The model begins to write a call. Followed by exactly one ToolCallCompleted."""

    call_id: str
    tool_name: str


@dataclass(frozen=True, slots=True)
class ToolCallArgumentsDelta:
    """A piece of a call's arguments."""

    call_id: str
    json_fragment: str


@dataclass(frozen=True, slots=True)
class ToolCallReady:
    """The model has written the whole call."""

    call_id: str
    tool_name: str
    arguments_json: str


@dataclass(frozen=True, slots=True)
class ToolCallProgress:
    """A handler says how far it is; `fraction` is None when it does not know."""

    call_id: str
    message: str
    fraction: float | None


@dataclass(frozen=True, slots=True)
class ToolCallCompleted:
    """A call ended, `wait_s` seconds after it was ready.

    `result_json` goes with RESULT, `error` with every other outcome.
    """

    call_id: str
    outcome: CallOutcome
    result_json: str
    error: ServiceError | None
    wait_s: float


@dataclass(frozen=True, slots=True)
class StepCompleted:
    """An assistant message ended."""

    step: int
    finish: StepFinish
    usage: TokenUsage


@dataclass(frozen=True, slots=True)
class TurnCompleted:
    """The turn ended: sent exactly once per turn. `text` is that of the last step."""

    outcome: TurnOutcome
    text: str
    error: ServiceError | None
    report: TurnReport


TurnEvent = (
    TurnQueued
    | TurnStarted
    | StepStarted
    | TextDelta
    | ReasoningDelta
    | ToolCallStarted
    | ToolCallArgumentsDelta
    | ToolCallReady
    | ToolCallProgress
    | ToolCallCompleted
    | StepCompleted
    | TurnCompleted
)
