"""Turns the account of a turn into its report: where time and tokens went."""

from __future__ import annotations

from precall_service.agent.account import (
    CallTaken,
    DraftsVerified,
    Happening,
    Sampled,
    StepBegan,
)
from precall_service.agent.draft_savings import DraftSavings
from precall_service.agent.overlap import Overlap
from precall_service.domain.events import (
    PredictionConfirmed,
    PredictionDiscarded,
    PredictionLaunched,
    PredictionProposed,
    PredictionReady,
    ResultSource,
    StepCompleted,
    StepFinishReason,
    TokenUsage,
    ToolCallCompleted,
    ToolCallReady,
    TurnReport,
    TurnStarted,
)


class TurnReporter:
    """Observes one turn. Times are in seconds."""

    def __init__(self, received_at: float) -> None:
        self._received_at = received_at
        self._queue_s: float | None = None
        self._first_piece_at: float | None = None
        self._generation_s = 0.0
        self._tool_s = 0.0
        self._continuation_s = 0.0
        self._step_began_at: float | None = None
        self._calls_taken_at: float | None = None
        """When the first of the current calls went on its way."""
        self._answered_at: float | None = None
        """When the latest of the current calls ended."""
        self._steps = 0
        self._calls_in_step = 0
        self._calls = 0
        self._cache_hits = 0
        self._predictions = 0
        self._confirmed = 0
        self._wasted_s = 0.0
        self._overlap = Overlap()
        self._drafts = DraftSavings()
        self._usage = TokenUsage()

    def observe(self, at: float, happening: Happening) -> None:
        """See `TurnObserver`."""
        if type(happening) is Sampled:  # the hot path: tested first, without `match`
            self._drafts.sample(at, len(happening.token_ids))
            if happening.pieces:
                self._take_pieces(at, happening)
            return
        match happening:
            case TurnStarted(waited_s):
                self._queue_s = waited_s
            case StepBegan():
                self._end_tools()
                self._drafts.begin_step()
                self._steps += 1
                self._calls_in_step = 0
                self._step_began_at = at
            case DraftsVerified(proposed, accepted):
                self._drafts.verify(proposed, accepted)
            case StepCompleted(_, finish, usage):
                self._end_step(at, finish, usage)
            case CallTaken() if self._calls_taken_at is None:
                self._calls_taken_at = at
            case ToolCallCompleted():
                self._answered_at = at
                self._cache_hits += happening.source is ResultSource.CACHE
                self._overlap.answer(at, happening)
            case _:
                self._observe_prediction(at, happening)

    def _observe_prediction(self, at: float, happening: Happening) -> None:
        match happening:
            case PredictionProposed():
                self._predictions += 1
            case PredictionLaunched(prediction_id):
                self._overlap.launch(at, prediction_id)
            case PredictionReady(prediction_id):
                self._overlap.end(at, prediction_id)
            case PredictionConfirmed(prediction_id):
                self._confirmed += 1
                self._overlap.end(at, prediction_id)
            case PredictionDiscarded():
                self._wasted_s += happening.time_wasted_s
            case _:
                pass

    def report(self, ended_at: float) -> TurnReport:
        """Returns the report of a turn that ends at this time."""
        self._end_tools()
        first, wall_s = self._first_piece_at, ended_at - self._received_at
        return TurnReport(
            wall_time_s=wall_s,
            queue_time_s=wall_s if self._queue_s is None else self._queue_s,
            time_to_first_token_s=None if first is None else first - self._received_at,
            generation_time_s=self._generation_s,
            tool_time_exposed_s=self._tool_s,
            tool_time_hidden_s=self._overlap.hidden_s,
            continuation_time_s=self._continuation_s,
            saved_by_overlap_s=self._overlap.saved_s,
            saved_by_drafts_s=max(0.0, self._drafts.saved_s),
            wasted_time_s=self._wasted_s,
            steps=self._steps,
            tool_calls=self._calls,
            usage=self._usage,
            cache_hits=self._cache_hits,
            predictions=self._predictions,
            predictions_confirmed=self._confirmed,
            draft_tokens_proposed=self._drafts.proposed,
            draft_tokens_accepted=self._drafts.accepted,
        )

    def _take_pieces(self, at: float, sampled: Sampled) -> None:
        if self._first_piece_at is None:
            self._first_piece_at = at
        if self._answered_at is not None:
            self._continuation_s += at - self._answered_at
            self._answered_at = None
        for piece in sampled.pieces:
            if type(piece) is ToolCallReady:
                self._calls_in_step += 1

    def _end_step(self, at: float, finish: StepFinishReason, usage: TokenUsage) -> None:
        self._usage = _sum(self._usage, usage)
        if self._step_began_at is not None:
            self._generation_s += at - self._step_began_at
            self._step_began_at = None
        if finish is StepFinishReason.TOOL_CALLS:
            self._calls += self._calls_in_step
            self._answered_at = None

    def _end_tools(self) -> None:
        if self._calls_taken_at is not None and self._answered_at is not None:
            self._tool_s += self._answered_at - self._calls_taken_at
        self._calls_taken_at = None
        self._overlap.close_step()


def _sum(one: TokenUsage, other: TokenUsage) -> TokenUsage:
    return TokenUsage(
        input_tokens=one.input_tokens + other.input_tokens,
        cached_tokens=one.cached_tokens + other.cached_tokens,
        output_tokens=one.output_tokens + other.output_tokens,
        reasoning_tokens=one.reasoning_tokens + other.reasoning_tokens,
    )
