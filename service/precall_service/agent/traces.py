"""What the spans of a turn say: our values in the words of the tracing package."""

from __future__ import annotations

from precall_service.domain.events import TurnCompleted
from precall_service.domain.turn import StepFinish, TokenUsage, TurnOutcome
from precall_service.engine.base import StepSpec
from precall_service.tools.endings import InvocationEnding
from precall_tracing import names
from precall_tracing.turns import OpenSpan, StepSettings, TurnTrace, Usage


def step_settings(spec: StepSpec) -> StepSettings:
    """The settings that a step's span shows."""
    chosen = spec.generation
    return StepSettings(
        max_tokens=spec.max_tokens,
        temperature=chosen.temperature,
        top_p=chosen.top_p,
        seed=chosen.seed,
    )


def trace_step_ending(span: OpenSpan, usage: TokenUsage, finish: StepFinish) -> None:
    """A step ended by itself."""
    span.use(_used(usage))
    span.set({names.RESPONSE_FINISH_REASONS: [finish.name.lower()]})


def trace_call_ending(span: OpenSpan, ending: InvocationEnding) -> None:
    """A call has its answer."""
    span.set({names.TOOL_OUTCOME: ending.outcome.name.lower()})
    if ending.error is not None:
        span.fail(ending.error.reason.name)


def trace_ending(trace: TurnTrace, completed: TurnCompleted) -> None:
    """The turn ended. Limits and cancels are outcomes, not errors."""
    report = completed.report
    trace.use(_used(report.usage))
    trace.set(
        {
            names.TURN_OUTCOME: completed.outcome.name.lower(),
            names.TURN_QUEUE_TIME: report.queue_s,
            names.TURN_STEPS: report.steps,
            names.TURN_TOOL_CALLS: report.tool_calls,
        }
    )
    if completed.outcome is TurnOutcome.FAILED and completed.error is not None:
        trace.fail(completed.error.reason.name)


def _used(usage: TokenUsage) -> Usage:
    return Usage(
        input_tokens=usage.input_tokens,
        cached_tokens=usage.cached_tokens,
        output_tokens=usage.output_tokens,
        reasoning_tokens=usage.reasoning_tokens,
    )
