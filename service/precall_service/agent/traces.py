"""Turns the account of a turn into its spans, with the names of the tracing package."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from types import TracebackType
from typing import Self

from precall_service.agent.account import (
    CallTaken,
    DraftsSaved,
    Happening,
    Sampled,
    StepBegan,
)
from precall_service.agent.context import TurnContext
from precall_service.domain.endings import UNANSWERED
from precall_service.domain.events import (
    PredictionConfirmed,
    PredictionDiscarded,
    PredictionProposed,
    ResultSource,
    StepCompleted,
    StepFinishReason,
    TokenUsage,
    ToolCallCompleted,
    ToolCallOutcome,
    TraceContext,
    TurnCompleted,
)
from precall_service.domain.turn import TurnSpec
from precall_service.engine.base import StepSpec
from precall_tracing import names
from precall_tracing.turns import OpenSpan, StepSettings, Tracer, TurnTrace, Usage


class TurnSpans:
    """Observes one turn. Every span that is still open ends with the `with` block."""

    _turn: TurnTrace

    def __init__(self, tracer: Tracer, spec: TurnSpec, context: TurnContext) -> None:
        self._begin = partial(
            TurnTrace,
            tracer,
            parent=asdict(spec.trace_context),
            conversation_id=context.conversation_id,
            tenant=context.tenant,
            turn_id=spec.turn_id,
            agent_name=context.agent_name,
            model=context.model,
        )
        self._step: OpenSpan | None = None
        self._calls: dict[str, OpenSpan] = {}
        self._predictions: dict[str, OpenSpan] = {}
        self._confirmed: list[OpenSpan] = []
        """The predictions whose results the next step uses."""

    def __enter__(self) -> Self:
        self._turn = self._begin()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end_step()
        for span in (*self._calls.values(), *self._predictions.values()):
            span.end()
        self._turn.__exit__(kind, error, traceback)

    def call_context(self, call_id: str) -> TraceContext:
        """Returns the trace context for the handler of an open call."""
        return TraceContext(**self._calls[call_id].carrier)

    def prediction_context(self, prediction_id: str) -> TraceContext:
        """Returns the trace context for a handler that runs early for an open prediction."""
        return TraceContext(**self._predictions[prediction_id].carrier)

    def observe(self, at: float, happening: Happening) -> None:
        """See `TurnObserver`."""
        match happening:
            case Sampled():
                pass
            case StepBegan(spec=spec):
                self._step = self._turn.step(_settings(spec), self._confirmed)
                self._confirmed = []
            case DraftsSaved():
                self._draft(happening)
            case StepCompleted(_, finish, usage):
                self._complete_step(finish, usage)
            case CallTaken(call_id, tool_name):
                self._calls[call_id] = self._turn.tool(tool_name, call_id)
            case ToolCallCompleted():
                self._complete_call(happening)
            case PredictionProposed():
                self._propose(happening)
            case PredictionConfirmed() | PredictionDiscarded():
                self._resolve(happening)
            case TurnCompleted():
                self._complete_turn(happening)
            case _:
                pass

    def _draft(self, saved: DraftsSaved) -> None:
        if self._step is not None:
            self._step.set(
                {
                    names.STEP_DRAFT_TOKENS_PROPOSED: saved.proposed,
                    names.STEP_DRAFT_TOKENS_ACCEPTED: saved.accepted,
                    names.STEP_SAVED_BY_DRAFTS: saved.saved_s,
                }
            )
        for draft in saved.drafts:
            span = self._predictions.get(draft.prediction_id)
            if span is not None:
                span.set(
                    {
                        names.PREDICTION_DRAFT_TOKENS_PROPOSED: draft.proposed,
                        names.PREDICTION_DRAFT_TOKENS_ACCEPTED: draft.accepted,
                        names.PREDICTION_SAVED_BY_DRAFT: draft.saved_s,
                    }
                )

    def _complete_step(self, finish: StepFinishReason, usage: TokenUsage) -> None:
        if self._step is None:
            return
        self._step.use(_used(usage))
        self._step.set({names.RESPONSE_FINISH_REASONS: [finish.name.lower()]})
        if finish is not StepFinishReason.ABORTED:  # else the turn's ending adds the reason
            self._end_step()

    def _complete_call(self, completed: ToolCallCompleted) -> None:
        span = self._calls.pop(completed.call_id, None)
        if span is None:  # the call was not made, or its tool is unknown
            return
        hit = completed.source is ResultSource.CACHE
        span.set(
            {
                names.TOOL_OUTCOME: completed.outcome.name.lower(),
                names.TOOL_RESULT_SOURCE: completed.source.name.lower()
                if completed.source is not ResultSource.UNSPECIFIED
                else None,
                names.TOOL_CACHE_ENTRY_VERSION: completed.cache_entry_version if hit else None,
                names.TOOL_CACHE_AGE: completed.cache_age_s,
                names.TOOL_TIME_SAVED: completed.time_saved_s,
            }
        )
        if completed.error is not None and completed.outcome is not ToolCallOutcome.CANCELLED:
            span.fail(completed.error.reason.name)
        span.end()

    def _propose(self, proposed: PredictionProposed) -> None:
        span = self._turn.prediction(proposed.tool_name)
        span.set(
            {
                names.PREDICTION_PREDICTOR: proposed.predictor.name.lower(),
                names.PREDICTION_CONFIDENCE: proposed.confidence,
                names.PREDICTION_DEPTH: proposed.depth,
            }
        )
        self._predictions[proposed.prediction_id] = span

    def _resolve(self, ended: PredictionConfirmed | PredictionDiscarded) -> None:
        """Ends the span of a prediction. A discarded prediction is not an error."""
        span = self._predictions.pop(ended.prediction_id)
        if isinstance(ended, PredictionConfirmed):
            span.set(
                {
                    names.PREDICTION_OUTCOME: "confirmed",
                    names.PREDICTION_LEAD_TIME: ended.lead_time_s,
                    names.TOOL_CALL_ID: ended.call_id,
                }
            )
            self._confirmed.append(span)
        else:
            span.set(
                {
                    names.PREDICTION_OUTCOME: "discarded",
                    names.PREDICTION_DISCARD_REASON: ended.reason.name.lower(),
                    names.PREDICTION_TIME_WASTED: ended.time_wasted_s,
                    names.TOOL_CALL_ID: ended.call_id or None,
                }
            )
        span.end()

    def _complete_turn(self, completed: TurnCompleted) -> None:
        """Completes the turn's span. Limits and cancels are outcomes, not errors."""
        report = completed.report
        self._turn.use(_used(report.usage))
        self._turn.set(
            {
                names.TURN_OUTCOME: completed.outcome.name.lower(),
                names.TURN_QUEUE_TIME: report.queue_time_s,
                names.TURN_STEPS: report.steps,
                names.TURN_TOOL_CALLS: report.tool_calls,
                names.TURN_CACHE_HITS: report.cache_hits,
                names.TURN_PREDICTIONS: report.predictions,
                names.TURN_PREDICTIONS_CONFIRMED: report.predictions_confirmed,
                names.TURN_SAVED_BY_OVERLAP: report.saved_by_overlap_s,
                names.TURN_SAVED_BY_DRAFTS: report.saved_by_drafts_s,
                names.TURN_DRAFT_TOKENS_PROPOSED: report.draft_tokens_proposed,
                names.TURN_DRAFT_TOKENS_ACCEPTED: report.draft_tokens_accepted,
                names.TURN_DRAFT_TOKENS_WASTED: report.draft_tokens_wasted,
                names.TURN_WASTED_TIME: report.wasted_time_s,
            }
        )
        if completed.outcome in UNANSWERED and completed.error is not None:
            self._turn.fail(completed.error.reason.name)
            if self._step is not None:
                self._step.fail(completed.error.reason.name)
        self._end_step()

    def _end_step(self) -> None:
        if self._step is not None:
            self._step.end()
            self._step = None


def _settings(spec: StepSpec) -> StepSettings:
    chosen = spec.generation
    return StepSettings(
        max_tokens=spec.max_tokens,
        temperature=chosen.temperature,
        top_p=chosen.top_p,
        seed=chosen.seed,
    )


def _used(usage: TokenUsage) -> Usage:
    return Usage(
        input_tokens=usage.input_tokens,
        cached_tokens=usage.cached_tokens,
        output_tokens=usage.output_tokens,
        reasoning_tokens=usage.reasoning_tokens,
    )
