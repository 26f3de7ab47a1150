"""What a turn tells while it runs, as frozen values that `match` takes apart.

Fields stand in the order of the contract, so `case precall.TextDelta(text)` works. A server that is
newer than this client may send more kinds of events: they are skipped.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TypeAlias

import pydantic
import pydantic_core

from precall._errors import PrecallError


class ToolCallOutcome(enum.Enum):
    """How a tool call ended. Whatever it is, the model is told."""

    UNKNOWN = "unknown"
    """A value of a newer server."""
    RESULT = "result"
    """The handler returned a result."""
    ERROR = "error"
    """The handler failed, its result was unusable, or the arguments were not valid."""
    TIMEOUT = "timeout"
    """The handler did not answer in time."""
    CANCELLED = "cancelled"
    """The turn or the call was cancelled, or a limit cut the step."""
    UNAVAILABLE = "unavailable"
    """No handler was there, or it left while the call ran."""
    DENIED = "denied"
    """A person denied the call."""


class ResultSource(enum.Enum):
    """Where a call's result came from."""

    UNKNOWN = "unknown"
    """A value of a newer server, or there was no result."""
    COMMITTED = "committed"
    """A handler ran for this call."""
    SPECULATIVE = "speculative"
    """A prediction had run it early."""
    CACHE = "cache"
    """The tool cache had it."""


class StepFinishReason(enum.Enum):
    """Why a step ended."""

    UNKNOWN = "unknown"
    """A value of a newer server."""
    STOP = "stop"
    """The model ended its message, or wrote a stop text."""
    TOOL_CALLS = "tool_calls"
    """The model ended its message with tool calls."""
    LENGTH = "length"
    """A token limit cut it."""
    ABORTED = "aborted"
    """It was cancelled or failed."""


class TurnOutcome(enum.Enum):
    """How a turn ended."""

    UNKNOWN = "unknown"
    """A value of a newer server."""
    ANSWERED = "answered"
    """The model gave its answer."""
    LIMIT = "limit"
    """A limit on tokens, steps or wall time cut it; the text so far stands."""
    CANCELLED = "cancelled"
    """It was cancelled; the text so far stands."""
    FAILED = "failed"
    """It failed. You will not see this: its error is raised instead."""


@dataclass(frozen=True, slots=True)
class TokenUsage:
    """Tokens of a step or a turn."""

    input_tokens: int = 0
    """Tokens of prompts."""
    cached_tokens: int = 0
    """Those of them that came from the KV cache."""
    output_tokens: int = 0
    """Tokens generated, reasoning included."""
    reasoning_tokens: int = 0
    """Tokens generated as reasoning."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnReport:
    """Where a turn's time and tokens went, and what was saved. Times in seconds."""

    wall_time_s: float = 0.0
    """From the start of the turn to its end."""
    queue_time_s: float = 0.0
    """Waiting for admission."""
    time_to_first_token_s: float = 0.0
    """From the start of the turn to its first text, reasoning or call."""
    generation_time_s: float = 0.0
    """In which the model generated."""
    tool_time_exposed_s: float = 0.0
    """In which the turn had nothing to do but wait for tools."""
    tool_time_hidden_s: float = 0.0
    """Tool time that ran while the model generated."""
    continuation_time_s: float = 0.0
    """From a tool result's arrival to the next token, summed over the steps."""
    saved_by_overlap_s: float = 0.0
    """Saved by results that were there before the model asked."""
    saved_by_drafts_s: float = 0.0
    """Saved by verified drafts."""
    saved_by_continuation_s: float = 0.0
    """Saved by continuing beside the engine."""
    wasted_time_s: float = 0.0
    """Handler time spent on discarded predictions."""
    steps: int = 0
    """Assistant messages."""
    tool_calls: int = 0
    """Tool calls that the model made."""
    usage: TokenUsage = TokenUsage()
    """Tokens of all steps."""
    cache_hits: int = 0
    """Calls served from the tool cache."""
    predictions: int = 0
    """Predictions proposed."""
    predictions_confirmed: int = 0
    """Predictions confirmed."""
    draft_tokens_proposed: int = 0
    """Draft tokens staged."""
    draft_tokens_accepted: int = 0
    """Draft tokens accepted."""


@dataclass(frozen=True, slots=True)
class TurnQueued:
    """The turn waits for its admission. Comes again when its place improves."""

    position: int
    """How many turns start before it."""


@dataclass(frozen=True, slots=True)
class TurnStarted:
    """The turn was admitted."""

    waited_s: float
    """How long it waited, in seconds."""


@dataclass(frozen=True, slots=True)
class StepStarted:
    """A step begins: one assistant message."""

    step: int
    """0 for the first step of the turn."""
    prompt_tokens: int
    """Tokens of its prompt."""


@dataclass(frozen=True, slots=True)
class TextDelta:
    """A piece of the answer's text."""

    text: str
    """The piece. Pieces of a step concatenate to its text."""


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """A piece of the model's reasoning, kept apart from the answer."""

    text: str
    """The piece."""


@dataclass(frozen=True, slots=True)
class ToolCallStarted:
    """The model begins to write a tool call."""

    call_id: str
    """Names the call in its conversation."""
    tool_name: str
    """Name of the tool."""


@dataclass(frozen=True, slots=True)
class ToolCallArgumentsDelta:
    """A piece of a call's arguments."""

    call_id: str
    """The call."""
    json_fragment: str
    """The piece of JSON text. Pieces concatenate to the arguments."""


@dataclass(frozen=True, slots=True)
class ToolCallReady:
    """The model has written the whole call."""

    call_id: str
    """The call."""
    tool_name: str
    """Name of the tool."""
    arguments_json: str
    """The arguments, a JSON object as the model wrote it."""

    @property
    def arguments(self) -> pydantic.JsonValue:
        """The arguments as Python values."""
        return pydantic_core.from_json(self.arguments_json)


@dataclass(frozen=True, slots=True)
class ToolCallProgress:
    """A handler says how far it is."""

    call_id: str
    """The call."""
    message: str
    """What it is doing, for people."""
    fraction: float | None = None
    """From 0 to 1; None where it is not known."""


@dataclass(frozen=True, slots=True)
class ToolCallCompleted:
    """A tool call ended. Every ToolCallStarted is followed by exactly one."""

    call_id: str
    """The call."""
    outcome: ToolCallOutcome
    """How it ended."""
    result_json: str = ""
    """The result as JSON text, with RESULT only."""
    error: PrecallError | None = None
    """What went wrong, with every other outcome."""
    wait_time_s: float = 0.0
    """From the call being ready to its ending, in seconds."""
    source: ResultSource = ResultSource.UNKNOWN
    """Where the result came from."""

    @property
    def result(self) -> pydantic.JsonValue:
        """The result as Python values; None where there is none."""
        return pydantic_core.from_json(self.result_json) if self.result_json else None


@dataclass(frozen=True, slots=True)
class StepCompleted:
    """A step ended. If it made calls, they are answered and the next step begins."""

    step: int
    """The step."""
    finish_reason: StepFinishReason
    """Why it ended."""
    usage: TokenUsage
    """What it used."""


@dataclass(frozen=True, slots=True)
class TurnCompleted:
    """The turn ended; the last event of its iteration."""

    outcome: TurnOutcome
    """How it ended."""
    text: str
    """The answer: the text of the last step."""
    error: PrecallError | None
    """With LIMIT: which limit."""
    report: TurnReport
    """Where the time and the tokens went."""


Event: TypeAlias = (
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
"""Everything that iterating over a turn yields."""
