"""Turns the account of a turn into its report: where time and tokens went."""

from __future__ import annotations

from dataclasses import dataclass

from precall_service.agent.account import (
    CallTaken,
    DraftSaved,
    DraftsSaved,
    Happening,
    Sampled,
    StepBegan,
)
from precall_service.agent.overlap import Overlap
from precall_service.domain.events import (
    DraftReport,
    PredictionConfirmed,
    PredictionDiscarded,
    PredictionLaunched,
    PredictionProposed,
    PredictionReady,
    Predictor,
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
        self._drafts = _DraftReports()
        self._usage = TokenUsage()

    def observe(self, at: float, happening: Happening) -> None:
        """See `TurnObserver`."""
        if type(happening) is Sampled:  # the hot path: tested first, without `match`
            if happening.pieces:
                self._take_pieces(at, happening)
            return
        match happening:
            case TurnStarted(waited_s):
                self._queue_s = waited_s
            case StepBegan():
                self._end_tools()
                self._steps += 1
                self._calls_in_step = 0
                self._step_began_at = at
            case DraftsSaved():
                self._drafts.add(happening)
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
                self._drafts.know(happening)
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
            saved_by_drafts_s=max(0.0, self._drafts.all.saved_s),
            wasted_time_s=self._wasted_s,
            steps=self._steps,
            tool_calls=self._calls,
            usage=self._usage,
            cache_hits=self._cache_hits,
            predictions=self._predictions,
            predictions_confirmed=self._confirmed,
            draft_tokens_proposed=self._drafts.all.proposed,
            draft_tokens_accepted=self._drafts.all.accepted,
            draft_tokens_wasted=self._drafts.all.wasted,
            drafts=self._drafts.reports(),
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


@dataclass(slots=True)
class _Drafts:
    """What became of the drafts of one source, or of all of them."""

    proposed: int = 0
    accepted: int = 0
    saved_s: float = 0.0

    @property
    def wasted(self) -> int:
        return self.proposed - self.accepted

    def add(self, saved: DraftSaved | DraftsSaved) -> None:
        self.proposed += saved.proposed
        self.accepted += saved.accepted
        self.saved_s += saved.saved_s


class _DraftReports:
    """Adds up what became of drafts, by the predictor and the tool; those of ends have neither."""

    def __init__(self) -> None:
        self.all = _Drafts()
        self._predicted: dict[str, tuple[Predictor, str]] = {}
        self._by_source: dict[tuple[Predictor, str] | None, _Drafts] = {}

    def know(self, proposed: PredictionProposed) -> None:
        self._predicted[proposed.prediction_id] = (proposed.predictor, proposed.tool_name)

    def add(self, saved: DraftsSaved) -> None:
        self.all.add(saved)
        for draft in saved.drafts:
            source = self._predicted.get(draft.prediction_id)
            self._by_source.setdefault(source, _Drafts()).add(draft)

    def reports(self) -> tuple[DraftReport, ...]:
        return tuple(
            DraftReport(
                predictor=None if source is None else source[0],
                tool_name="" if source is None else source[1],
                tokens_proposed=drafts.proposed,
                tokens_accepted=drafts.accepted,
                tokens_wasted=drafts.wasted,
                saved_s=max(0.0, drafts.saved_s),
            )
            for source, drafts in self._by_source.items()
        )
