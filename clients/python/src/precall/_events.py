"""What a turn tells while it runs, as frozen values that `match` takes apart.

Fields that end in `_s` are seconds. Events of a newer server are skipped.

Generated from proto/precall/v1 by `make gen`. Do not edit.
"""

from __future__ import annotations

import enum
from dataclasses import KW_ONLY, dataclass
from typing import TypeAlias

import pydantic
import pydantic_core

from precall._errors import PrecallError

__all__ = [
    "ContentPart",
    "Event",
    "ReasoningDelta",
    "ResultSource",
    "StepCompleted",
    "StepFinishReason",
    "StepStarted",
    "TextDelta",
    "TokenUsage",
    "ToolCallArgumentsDelta",
    "ToolCallCompleted",
    "ToolCallOutcome",
    "ToolCallProgress",
    "ToolCallReady",
    "ToolCallStarted",
    "TurnCompleted",
    "TurnOutcome",
    "TurnQueued",
    "TurnReport",
    "TurnStarted",
]


class ToolCallOutcome(enum.Enum):
    """How a tool call ended. The model is told in each case."""

    UNKNOWN = "unknown"
    """A value of a newer server."""
    RESULT = "result"
    """The handler returned a result. This is a terminal state."""
    ERROR = "error"
    """The handler failed, its result was unusable, or the arguments were not valid. This is a
    terminal state."""
    TIMEOUT = "timeout"
    """The handler did not answer in time. This is a terminal state."""
    CANCELLED = "cancelled"
    """The turn or the call was cancelled, or the step was cut by a limit. This is a terminal
    state."""
    UNAVAILABLE = "unavailable"
    """No handler was there, or it left while the call ran. This is a terminal state."""
    DENIED = "denied"
    """A person denied the call. This is a terminal state."""


class ResultSource(enum.Enum):
    """Where a call's result came from."""

    UNKNOWN = "unknown"
    """There was no result. Or a value of a newer server."""
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
    """The model gave its answer. This is a terminal state."""
    LIMIT = "limit"
    """A limit on tokens, steps or wall time cut it; the text so far stands. This is a terminal
    state."""
    CANCELLED = "cancelled"
    """The client cancelled it. This is a terminal state."""
    FAILED = "failed"
    """It failed; `error` says why. This is a terminal state."""
    INTERJECTED = "interjected"
    """Its message became part of the turn that was running, `merged_into_turn_id`, which answers
    it. This is a terminal state."""


@dataclass(frozen=True, slots=True)
class TurnQueued:
    """The turn waits for its admission.

    Sent again when its position changes; a client that is slow to read may miss some.
    """

    position: int = 0
    """How many turns start before it. 0: it is next."""


@dataclass(frozen=True, slots=True)
class TurnStarted:
    """The turn was admitted: it has its slot and its share of the KV cache."""

    waited_s: float = 0.0
    """How long it waited."""


@dataclass(frozen=True, slots=True)
class StepStarted:
    """A step begins: one assistant message."""

    step: int = 0
    """0 for the first step of the turn."""
    prompt_tokens: int = 0
    """Tokens of its prompt."""


@dataclass(frozen=True, slots=True)
class TextDelta:
    """A piece of the answer's text."""

    text: str = ""
    """The piece. Pieces of a step concatenate to its text."""


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """A piece of the model's reasoning, kept apart from the answer."""

    text: str = ""
    """The piece."""


@dataclass(frozen=True, slots=True)
class ToolCallStarted:
    """The model begins to write a tool call.

    Followed by exactly one ToolCallCompleted before the end of the turn.
    """

    call_id: str = ""
    """Made by the server; unique in the conversation."""
    tool_name: str = ""
    """Name of the tool."""


@dataclass(frozen=True, slots=True)
class ToolCallArgumentsDelta:
    """A piece of a call's arguments."""

    call_id: str = ""
    """The call."""
    json_fragment: str = ""
    """The piece of JSON text. Pieces concatenate to the arguments."""


@dataclass(frozen=True, slots=True)
class ToolCallReady:
    """The model has written the whole call."""

    call_id: str = ""
    """The call."""
    tool_name: str = ""
    """Name of the tool."""
    arguments_json: str = ""
    """The arguments: a JSON object as the model wrote it."""

    @property
    def arguments(self) -> pydantic.JsonValue:
        """`arguments_json` as Python values; None where it is empty."""
        text = self.arguments_json
        return pydantic_core.from_json(text) if text else None


@dataclass(frozen=True, slots=True)
class ToolCallProgress:
    """A handler says how far it is."""

    call_id: str = ""
    """The call."""
    message: str = ""
    """What it is doing, for people. Longer messages are shortened in the middle to 1024
    characters."""
    fraction: float | None = None
    """From 0 to 1. None: unknown."""


@dataclass(frozen=True, slots=True)
class ContentPart:
    """One part of what is said.

    Text is always served. Every other kind needs a model that reads it: a server that does not
    serve one refuses it as NOT_SERVED (CAPABILITY_MEDIA), with the path of the part.
    """

    text: str | None = None
    """Text. Adjacent text parts are one text."""


@dataclass(frozen=True, slots=True)
class ToolCallCompleted:
    """A tool call ended. Every ToolCallStarted is followed by exactly one of these."""

    call_id: str = ""
    """The call."""
    outcome: ToolCallOutcome = ToolCallOutcome.UNKNOWN
    """How it ended."""
    result_json: str = ""
    """The result, with RESULT only: JSON text."""
    error: PrecallError | None = None
    """What went wrong, with every other outcome (see FrameRejected.error)."""
    wait_time_s: float = 0.0
    """From the call being ready to its ending."""
    source: ResultSource = ResultSource.UNKNOWN
    """Where the result came from."""
    cache_entry_version: int = 0
    """With CACHE: the entry version that was served."""
    cache_age_s: float | None = None
    """With CACHE: how old the result is."""
    _: KW_ONLY
    prediction_id: str = ""
    """With SPECULATIVE: the prediction that was confirmed."""
    time_saved_s: float | None = None
    """With SPECULATIVE: how much longer the turn would have waited for a run that started when the
    call was ready."""
    content: tuple[ContentPart, ...] = ()
    """With RESULT: what the model saw in place of the JSON text (see InvocationResult.content).
    Empty: the JSON text."""

    @property
    def result(self) -> pydantic.JsonValue:
        """`result_json` as Python values; None where it is empty."""
        text = self.result_json
        return pydantic_core.from_json(text) if text else None


@dataclass(frozen=True, slots=True)
class TokenUsage:
    """Tokens that were used. Of an aborted step only the prompt counts, if it was computed."""

    input_tokens: int = 0
    """Tokens of prompts."""
    cached_tokens: int = 0
    """Those of them that were served from the KV cache."""
    output_tokens: int = 0
    """Tokens generated, reasoning included."""
    reasoning_tokens: int = 0
    """Tokens generated as reasoning, where the model's format tells."""


@dataclass(frozen=True, slots=True)
class StepCompleted:
    """A step ended. If it made calls, they are answered and the next step begins."""

    step: int = 0
    """The step."""
    finish_reason: StepFinishReason = StepFinishReason.UNKNOWN
    """Why it ended."""
    usage: TokenUsage = TokenUsage()
    """What it used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnReport:
    """Where a turn's time and tokens went, and what was saved."""

    wall_time_s: float = 0.0
    """From the receipt of StartTurn to the turn's end."""
    queue_time_s: float = 0.0
    """Waiting for admission."""
    time_to_first_token_s: float | None = None
    """From the receipt of StartTurn to the first piece of text, reasoning or call. None: there was
    none."""
    generation_time_s: float = 0.0
    """Time in which the model generated."""
    tool_time_exposed_s: float = 0.0
    """Time in which the turn had nothing to do but wait for tools."""
    tool_time_hidden_s: float = 0.0
    """Tool time that ran while the model generated."""
    continuation_time_s: float = 0.0
    """From a tool result's arrival to the next token, summed over the steps that continue the
    turn."""
    saved_by_overlap_s: float = 0.0
    """Time saved by tools that ran while the model still generated: the sum of
    ToolCallCompleted.time_saved."""
    saved_by_drafts_s: float = 0.0
    """Time saved by predicted calls that the engine verified in place of decoding them token by
    token."""
    saved_by_continuation_s: float = 0.0
    """Time saved by steps that went on from tokens which the KV cache still held: their prefill."""
    wasted_time_s: float = 0.0
    """Handler time spent on discarded predictions."""
    steps: int = 0
    """Steps that began."""
    tool_calls: int = 0
    """Tool calls that the model made, whether or not they were run."""
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
class TurnCompleted:
    """The turn ended: its last event.

    Sent exactly once per turn, and again for a repeated StartTurn.
    """

    outcome: TurnOutcome = TurnOutcome.UNKNOWN
    """How it ended."""
    text: str = ""
    """The text of the last step: the answer."""
    error: PrecallError | None = None
    """With LIMIT, CANCELLED and FAILED: why (see FrameRejected.error). After FAILED the
    conversation is as it was before the turn, unless handlers ran of tools that are not read_only:
    then its finished steps stand, `called` in the ErrorInfo metadata names those tools, and there
    is no RetryInfo, since the same turn again might do twice what was done."""
    report: TurnReport = TurnReport()
    """Where the time went."""
    merged_into_turn_id: str = ""
    """With INTERJECTED: the turn that answers the message."""


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
