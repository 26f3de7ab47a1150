"""The events that a conversation sends to its client, and the values in them.

Fields that end in `_s` are seconds.

Generated from proto/precall/v1 by `make gen`. Do not edit.
"""

from __future__ import annotations

import enum
from dataclasses import KW_ONLY, dataclass

from precall_service.domain.errors import ServiceError


class ToolCallOutcome(enum.Enum):
    """How a tool call ended. The model is told in each case."""

    UNSPECIFIED = 0
    """Never sent."""
    RESULT = 1
    """The handler returned a result. This is a terminal state."""
    ERROR = 2
    """The handler failed, its result was unusable, or the arguments were invalid. This is a
    terminal state."""
    TIMEOUT = 3
    """The handler did not answer in time. This is a terminal state."""
    CANCELLED = 4
    """The turn or the call was cancelled, or a limit or a stop text cut the step. This is a
    terminal state."""
    UNAVAILABLE = 5
    """There was no handler, or its process left while the call ran. This is a terminal state."""
    DENIED = 6
    """A person denied the call. This is a terminal state."""


class ResultSource(enum.Enum):
    """Where a call's result came from."""

    UNSPECIFIED = 0
    """There was no result."""
    COMMITTED = 1
    """A handler ran for this call."""
    SPECULATIVE = 2
    """A handler ran early, for a prediction of this call."""
    CACHE = 3
    """The tool cache had the result."""
    JOINED = 4
    """The handler ran for an equal call at the same time, and both calls share its result."""


class StepFinishReason(enum.Enum):
    """Why a step ended."""

    UNSPECIFIED = 0
    """Never sent."""
    STOP = 1
    """The model ended its message, or wrote a stop text."""
    TOOL_CALLS = 2
    """The model ended its message with tool calls."""
    LENGTH = 3
    """A limit on tokens cut the step."""
    ABORTED = 4
    """The step was cancelled or failed."""


class TurnOutcome(enum.Enum):
    """How a turn ended."""

    UNSPECIFIED = 0
    """Never sent."""
    ANSWERED = 1
    """The model gave its answer. This is a terminal state."""
    LIMIT = 2
    """A limit on tokens, steps or wall time cut the turn; the text so far is kept. This is a
    terminal state."""
    CANCELLED = 3
    """The client cancelled the turn. This is a terminal state."""
    FAILED = 4
    """The turn failed; `error` says why. This is a terminal state."""
    INTERJECTED = 5
    """The turn's message became part of the running turn, `merged_into_turn_id`, which answers it.
    This is a terminal state."""
    NO_CALL = 6
    """The model meant to make a call, or had to make one, but its message contained none that could
    be run; `error` says why, with CALL_LOST, CALL_MISSING or CALL_STOPPED. This is a terminal
    state."""


class Predictor(enum.Enum):
    """The source of a prediction."""

    UNSPECIFIED = 0
    """Never sent."""
    CACHE = 1
    """The tool cache has a result for this call."""
    EARLY_DISPATCH = 2
    """The model has written the whole call, but not yet the whole message."""
    HISTORY = 3
    """The earlier calls of the tenant."""
    FORK = 4
    """A branch of the same model on the same prefix."""
    DRAFT_MODEL = 5
    """A smaller model."""


class InvocationCancelReason(enum.Enum):
    """Why a run is no longer needed."""

    UNSPECIFIED = 0
    """Never sent."""
    TIMEOUT = 1
    """The tool's timeout has passed. The model has been told."""
    TURN_ENDED = 2
    """The turn ended first: it was cancelled, it failed, or it reached its time limit."""
    CALL_CANCELLED = 3
    """This one call was cancelled."""
    PREDICTION_DISCARDED = 4
    """The prediction for which the handler runs was discarded."""
    DRAINING = 5
    """The server is shutting down."""


class DiscardReason(enum.Enum):
    """Why a prediction was discarded."""

    UNSPECIFIED = 0
    """Never sent."""
    NOT_ELIGIBLE = 1
    """The tool's declaration or the operator does not allow it to run early."""
    BUDGET = 2
    """A budget of the turn, the tenant or the tool was used up."""
    LOAD = 3
    """The engine or the tool was busy with committed work."""
    LOW_VALUE = 4
    """Its expected value was below the margin."""
    DUPLICATE = 5
    """The same call was already predicted or running."""
    BREAKER_OPEN = 6
    """The tool's breaker was open."""
    MISMATCH = 7
    """The model did something else."""
    SUPERSEDED = 8
    """A better prediction replaced it."""
    STALE_RESOURCE = 9
    """A resource that it read has changed since."""
    EXPIRED = 10
    """Its result was too old when the model made the call, or its tool has been updated since."""
    HANDLER_ERROR = 11
    """The handler failed."""
    HANDLER_TIMEOUT = 12
    """The handler took too long."""
    HOST_LOST = 13
    """The handler's process left."""
    TURN_ENDED = 14
    """The turn ended without the call."""
    CANCELLED = 15
    """The turn was cancelled."""
    SHADOW = 16
    """Predictions are only scored (SPECULATION_MODE_SHADOW), so nothing ran early."""


@dataclass(frozen=True, slots=True)
class FrameRejected:
    """The server refused one frame of the client. The stream goes on."""

    frame_sequence: int = 0
    """The `sequence` of the refused frame; 0 if the frame could not be read."""
    error: ServiceError | None = None
    """What was wrong, where, the limit, and what to do. The details contain exactly one
    `google.rpc.ErrorInfo`, whose reason is the full name of an `ErrorReason` value (such as
    "ERROR_REASON_TURN_RUNNING") and whose domain is "precall". If a field was wrong,
    `google.rpc.BadRequest` names it. If a retry may succeed, `google.rpc.RetryInfo` says after what
    time."""


@dataclass(frozen=True, slots=True)
class LoosenedKeyword:
    """A keyword of a tool's schema that does not bind the model while it writes a call."""

    path: str = ""
    """Its place in the schema, such as "$.properties.url.pattern", with references followed and
    `allOf` merged: the part that a property refers to is named as if it stood there. "$" is the
    whole schema."""
    reason: str = ""
    """Why it does not bind the model, or not exactly."""


@dataclass(frozen=True, slots=True)
class ToolRegistration:
    """The outcome for one declared tool."""

    name: str = ""
    """The tool's name, as declared."""
    version: str = ""
    """The version under which the tool is registered. Empty if it was refused."""
    error: ServiceError | None = None
    """Set if the tool was refused: what was wrong, where, the limit, and what to do (see
    FrameRejected.error)."""
    loosened: tuple[LoosenedKeyword, ...] = ()
    """The keywords of the input schema that do not bind the model while it writes the arguments.
    Arguments are checked against the whole schema before a handler runs, and the model is told what
    does not fit. So a loosened keyword may cost another step, but lets nothing through. Empty if
    every keyword binds the model, if the server does not hold calls to their schemas at all, and if
    its engine was not ready at the time."""


@dataclass(frozen=True, slots=True)
class ToolsRegistered:
    """Server to client: the answer to one RegisterTools."""

    frame_sequence: int = 0
    """The `sequence` of the RegisterTools frame."""
    registrations: tuple[ToolRegistration, ...] = ()
    """One entry per declared tool, in the order of the declaration."""


@dataclass(frozen=True, slots=True)
class ToolsWithdrawn:
    """Server to client: the answer to one WithdrawTools."""

    frame_sequence: int = 0
    """The `sequence` of the WithdrawTools frame."""
    names: tuple[str, ...] = ()
    """The names that were withdrawn."""
    unknown_names: tuple[str, ...] = ()
    """The names that this stream had not registered."""


@dataclass(frozen=True, slots=True)
class TurnQueued:
    """The turn waits for admission.

    Sent again when its queue position changes, but a client that reads slowly may miss some.
    """

    position: int = 0
    """The queue position: how many turns start before this one. 0: it is next."""


@dataclass(frozen=True, slots=True)
class TurnStarted:
    """The turn was admitted: it has its share of the engine, a slot and KV cache."""

    waited_s: float = 0.0
    """How long the turn waited."""


@dataclass(frozen=True, slots=True)
class StepStarted:
    """A step begins: one assistant message."""

    step: int = 0
    """The number of the step in its turn, from 0."""
    prompt_tokens: int = 0
    """The number of tokens in its prompt. 0 if it is unknown, since a server elsewhere counts them
    at the end."""


@dataclass(frozen=True, slots=True)
class TextDelta:
    """A piece of the answer's text."""

    text: str = ""
    """The piece. The pieces of a step concatenate to its text."""


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """A piece of the model's reasoning, which is kept separate from the answer."""

    text: str = ""
    """The piece."""


@dataclass(frozen=True, slots=True)
class ToolCallStarted:
    """The model begins to write a tool call.

    Exactly one ToolCallCompleted follows before the end of the turn.
    """

    call_id: str = ""
    """The id of the call, made by the server and unique in the conversation."""
    tool_name: str = ""
    """The name of the tool."""


@dataclass(frozen=True, slots=True)
class ToolCallArgumentsDelta:
    """A piece of a call's arguments."""

    call_id: str = ""
    """The id of the call."""
    json_fragment: str = ""
    """The piece of JSON text. The pieces concatenate to the arguments."""


@dataclass(frozen=True, slots=True)
class ToolCallReady:
    """The model has written the whole call."""

    call_id: str = ""
    """The id of the call."""
    tool_name: str = ""
    """The name of the tool."""
    arguments_json: str = ""
    """The arguments: a JSON object, as the model wrote it."""


@dataclass(frozen=True, slots=True)
class ToolCallProgress:
    """A handler reports its progress."""

    call_id: str = ""
    """The id of the call."""
    message: str = ""
    """What the handler is doing, for people. A longer message is shortened in the middle to 1024
    characters."""
    fraction: float | None = None
    """How far the handler is, from 0 to 1. None if unknown."""


@dataclass(frozen=True, slots=True)
class ContentPart:
    """One part of the content of a message or a result.

    Text is always served. A server that does not serve another kind refuses it with NOT_SERVED
    (CAPABILITY_MEDIA) and names the part.
    """

    text: str | None = None
    """Text. Adjacent text parts form one text."""


@dataclass(frozen=True, slots=True)
class ToolCallCompleted:
    """A tool call ended. Exactly one of these follows every ToolCallStarted."""

    call_id: str = ""
    """The id of the call."""
    outcome: ToolCallOutcome = ToolCallOutcome.UNSPECIFIED
    """How the call ended."""
    result_json: str = ""
    """With RESULT: the result, as JSON text."""
    error: ServiceError | None = None
    """With every other outcome: what went wrong (see FrameRejected.error)."""
    wait_time_s: float = 0.0
    """The time from when the call was ready to its ending."""
    source: ResultSource = ResultSource.UNSPECIFIED
    """Where the result came from."""
    cache_entry_version: int = 0
    """With CACHE: the version of the cache entry."""
    cache_age_s: float | None = None
    """With CACHE: the age of the result."""
    _: KW_ONLY
    prediction_id: str = ""
    """With SPECULATIVE: the prediction that was confirmed."""
    time_saved_s: float | None = None
    """With SPECULATIVE: how much longer the turn would have waited for this call if the run had
    started when the model's message ended."""
    content: tuple[ContentPart, ...] = ()
    """With RESULT: what the model saw instead of the JSON text (see InvocationResult.content).
    Empty: the JSON text."""


@dataclass(frozen=True, slots=True)
class TokenUsage:
    """Tokens that were used. For an aborted step only its prompt counts, if it was computed."""

    input_tokens: int = 0
    """Tokens in prompts."""
    cached_tokens: int = 0
    """The part of `input_tokens` that the KV cache already held."""
    output_tokens: int = 0
    """Generated tokens, including reasoning."""
    reasoning_tokens: int = 0
    """Tokens generated as reasoning, if the model's format separates them."""


@dataclass(frozen=True, slots=True)
class StepCompleted:
    """A step ended. If it made calls, they are answered next, and then another step begins."""

    step: int = 0
    """The number of the step."""
    finish_reason: StepFinishReason = StepFinishReason.UNSPECIFIED
    """Why it ended."""
    usage: TokenUsage = TokenUsage()
    """The tokens that it used."""


@dataclass(frozen=True, slots=True)
class DraftReport:
    """DraftReport of the contract.

    What became of a turn's drafts from one source: a predictor's calls of one tool, or the ends of
    calls.
    """

    predictor: Predictor | None = None
    """The predictor. None for the ends of calls, such as a closing mark: they are certain once the
    arguments have ended, so they are drafted without a prediction."""
    tool_name: str = ""
    """The name of the tool. Empty for the ends of calls."""
    tokens_proposed: int = 0
    """The number of tokens that the engine verified."""
    tokens_accepted: int = 0
    """The number of verified tokens that were accepted."""
    tokens_wasted: int = 0
    """The number of verified tokens that were not accepted."""
    saved_s: float = 0.0
    """An estimate of the time saved: the part of TurnReport.saved_by_drafts that is due to these
    drafts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnReport:
    """Where a turn's time and tokens went, and what was saved."""

    wall_time_s: float = 0.0
    """The time from the receipt of StartTurn to the end of the turn."""
    queue_time_s: float = 0.0
    """The time spent waiting for admission. For a turn that was never admitted, all of its time."""
    time_to_first_token_s: float | None = None
    """The time from the receipt of StartTurn to the first piece of text, reasoning or a call. None
    if there was no such piece."""
    generation_time_s: float = 0.0
    """The time from the start of each step to its end. A client that reads slowly makes it
    longer."""
    tool_time_exposed_s: float = 0.0
    """The time in which the turn could only wait for tools."""
    tool_time_hidden_s: float = 0.0
    """The time in which tools ran for confirmed predictions while the model generated."""
    continuation_time_s: float = 0.0
    """The time from the last tool result to the next token, summed over the steps that continue the
    turn."""
    saved_by_overlap_s: float = 0.0
    """The time saved by tools that ran while the model still generated: how much longer the turn
    would have waited for the calls of its steps if their runs had started when the messages ended.
    The calls of a step run at the same time, so this can be less than the sum of
    ToolCallCompleted.time_saved."""
    saved_by_drafts_s: float = 0.0
    """The time saved by predicted calls that the engine verified instead of decoding them token by
    token."""
    saved_by_continuation_s: float = 0.0
    """The prefill time saved by steps that started from tokens that the KV cache still held."""
    wasted_time_s: float = 0.0
    """The handlers' time spent on discarded predictions."""
    steps: int = 0
    """The number of steps that began."""
    tool_calls: int = 0
    """The number of tool calls that the model made, whether or not they were run."""
    usage: TokenUsage = TokenUsage()
    """The tokens of all steps."""
    cache_hits: int = 0
    """The number of calls that the tool cache answered."""
    predictions: int = 0
    """The number of predictions that were proposed."""
    predictions_confirmed: int = 0
    """The number of predictions that were confirmed."""
    draft_tokens_proposed: int = 0
    """The number of draft tokens that the engine verified: those of `drafts`, and those of the
    engine's own speculative decoding where the operator uses it."""
    draft_tokens_accepted: int = 0
    """The number of verified draft tokens that were accepted."""
    draft_tokens_wasted: int = 0
    """The number of verified draft tokens that were not accepted."""
    drafts: tuple[DraftReport, ...] = ()
    """What became of the drafts of each predictor and tool, and of the ends of calls."""


@dataclass(frozen=True, slots=True)
class TurnCompleted:
    """The turn ended: its last event.

    Sent exactly once per turn, and again for a repeated StartTurn.
    """

    outcome: TurnOutcome = TurnOutcome.UNSPECIFIED
    """How the turn ended."""
    text: str = ""
    """The text of the last step: the answer."""
    error: ServiceError | None = None
    """With LIMIT, CANCELLED, FAILED and NO_CALL: why (see FrameRejected.error). After FAILED and
    NO_CALL, the conversation is as it was before the turn, unless the turn sent an Invoke for a
    tool that is not read_only. In that case its finished steps stay in the conversation, `called`
    in the ErrorInfo metadata names those tools, and there is no RetryInfo: the same turn might do
    again what was already done."""
    report: TurnReport = TurnReport()
    """Where the time and the tokens went."""
    merged_into_turn_id: str = ""
    """With INTERJECTED: the id of the turn that answers the message."""


@dataclass(frozen=True, slots=True)
class TraceContext:
    """The W3C trace context of a frame's sender (https://www.w3.org/TR/trace-context/).

    It is part of the frames because one stream outlives many traces.
    """

    traceparent: str = ""
    """The `traceparent` header value. Empty if there is no trace."""
    tracestate: str = ""
    """The `tracestate` header value. May be empty."""


@dataclass(frozen=True, slots=True)
class Invoke:
    """Server to handler: run the tool.

    The answer is exactly one InvocationResult, even after a CancelInvocation.
    """

    invocation_id: str = ""
    """The id of this run, made by the server and unique on it. Later frames name the run by this
    id."""
    execution_id: str = ""
    """The id of the execution, made by the server. It stays the same over retries, reconnects and
    replays. A handler with side effects runs at most once per execution id."""
    call_id: str = ""
    """The model's call that the run answers. Empty while the run is speculative; if the model makes
    the call, InvocationCommitted names it."""
    prediction_id: str = ""
    """The prediction for which the handler runs early. Empty if the run was started for a call."""
    turn_id: str = ""
    """The turn for which the handler runs."""
    conversation_id: str = ""
    """The conversation for which the handler runs."""
    tool_name: str = ""
    """The name of the registered tool."""
    tool_version: str = ""
    """The version under which the tool is registered."""
    _: KW_ONLY
    arguments_json: str = ""
    """The arguments: a JSON object that fits the tool's input schema."""
    timeout_s: float = 0.0
    """How long the handler may take. The time counts from when the server has this frame ready to
    send."""
    trace_context: TraceContext = TraceContext()
    """The parent of the handler's span."""


@dataclass(frozen=True, slots=True)
class CancelInvocation:
    """Server to handler: stop this run if possible.

    The InvocationResult is still owed, preferably with `cancelled`. The frame has no turn id,
    because the invocation id is enough to find the run.
    """

    invocation_id: str = ""
    """The id of the run to stop."""
    reason: InvocationCancelReason = InvocationCancelReason.UNSPECIFIED
    """Why it should stop."""


@dataclass(frozen=True, slots=True)
class PredictionProposed:
    """The server expects the model to make this call."""

    prediction_id: str = ""
    """The id of the prediction, made by the server."""
    tool_name: str = ""
    """The name of the tool."""
    tool_version: str = ""
    """The version of the tool."""
    arguments_json: str = ""
    """The predicted arguments, in canonical form (RFC 8785)."""
    predictor: Predictor = Predictor.UNSPECIFIED
    """The source of the prediction."""
    confidence: float = 0.0
    """The predictor's own estimate of its probability, from 0 to 1."""
    depth: int = 0
    """How many calls ahead of the model the prediction is: 1 is the model's next call."""


@dataclass(frozen=True, slots=True)
class PredictionLaunched:
    """The handler of the predicted call has been started."""

    prediction_id: str = ""
    """The id of the prediction."""
    invocation_id: str = ""
    """The id of the run."""


@dataclass(frozen=True, slots=True)
class PredictionReady:
    """The result of the predicted call is ready, and waits for the model."""

    prediction_id: str = ""
    """The id of the prediction."""
    run_time_s: float = 0.0
    """How long the handler took."""


@dataclass(frozen=True, slots=True)
class PredictionConfirmed:
    """The model made exactly this call.

    This is a terminal state. The run may still go on: ToolCallCompleted tells how much time the
    prediction saved.
    """

    prediction_id: str = ""
    """The id of the prediction."""
    call_id: str = ""
    """The id of the model's call."""
    lead_time_s: float = 0.0
    """The time from the proposal to the model's commitment to the call."""
    draft_tokens_proposed: int = 0
    """The number of tokens of the call that the engine verified as a draft. If several predictions
    are of the same call, they count for the first of them."""
    draft_tokens_accepted: int = 0
    """The number of verified tokens that were accepted."""
    saved_by_draft_s: float = 0.0
    """An estimate of the time saved by the accepted tokens."""


@dataclass(frozen=True, slots=True)
class PredictionDiscarded:
    """The prediction was discarded. This is a terminal state."""

    prediction_id: str = ""
    """The id of the prediction."""
    reason: DiscardReason = DiscardReason.UNSPECIFIED
    """Why."""
    time_wasted_s: float = 0.0
    """The handler's time spent on it."""
    call_id: str = ""
    """The model's call that the prediction matched, if nothing ran early for it: with SHADOW, and
    where the policy did not let it run. Empty: the model did not make the call."""
    draft_tokens_proposed: int = 0
    """The number of tokens of the call that the engine verified as a draft. If several predictions
    are of the same call, they count for the first of them."""
    draft_tokens_accepted: int = 0
    """The number of verified tokens that were accepted."""
    saved_by_draft_s: float = 0.0
    """An estimate of the time saved by the accepted tokens."""


@dataclass(frozen=True, slots=True)
class GoAway:
    """The server will close this stream soon.

    Start nothing new, and connect again, to another server if there is one.
    """

    time_left_s: float = 0.0
    """How long the running turn may still take on this stream."""
    message: str = ""
    """The reason, for people, such as "the server is shutting down"."""


@dataclass(frozen=True, slots=True)
class InvocationCommitted:
    """Server to handler: the model has made the call that this speculative run predicted.

    From now on the run is committed, and its result answers the call. A handler may put off costly
    work until then.
    """

    invocation_id: str = ""
    """The id of the run."""
    call_id: str = ""
    """The id of the model's call."""


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
    | PredictionProposed
    | PredictionLaunched
    | PredictionReady
    | PredictionConfirmed
    | PredictionDiscarded
)
"""Every event of a turn."""

ConversationEvent = (
    FrameRejected
    | ToolsRegistered
    | ToolsWithdrawn
    | TurnQueued
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
    | Invoke
    | CancelInvocation
    | PredictionProposed
    | PredictionLaunched
    | PredictionReady
    | PredictionConfirmed
    | PredictionDiscarded
    | GoAway
    | InvocationCommitted
)
"""Every event of a conversation."""
