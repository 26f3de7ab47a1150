"""Turns the service's events into frames: a function for each message.

Generated from proto/precall/v1 by `make gen`. Do not edit.
"""

from __future__ import annotations

import functools

from precall.v1 import (
    agent_pb2,
    common_pb2,
    content_pb2,
    invocation_pb2,
    prediction_pb2,
    tool_pb2,
    turn_pb2,
)
from precall_service.agent.outbox import NumberedEvent
from precall_service.domain import events
from precall_service.transport.fields import duration
from precall_service.transport.statuses import to_status

Frame = agent_pb2.ConverseResponse


def converse_response(numbered: NumberedEvent, acknowledged: int) -> Frame:
    """The frame of a numbered event."""
    event = numbered.event
    if type(event) is events.TextDelta:  # first and inline, since it comes with every token
        return Frame(
            sequence=numbered.sequence,
            acknowledged=acknowledged,
            turn_id=numbered.turn_id,
            text_delta=turn_pb2.TextDelta(text=event.text),
        )
    frame = Frame(sequence=numbered.sequence, acknowledged=acknowledged, turn_id=numbered.turn_id)
    _fill(event, frame)
    return frame


def frame_rejected(value: events.FrameRejected) -> common_pb2.FrameRejected:
    """FrameRejected as a message."""
    return common_pb2.FrameRejected(
        frame_sequence=value.frame_sequence,
        error=None if value.error is None else to_status(value.error),
    )


def loosened_keyword(value: events.LoosenedKeyword) -> tool_pb2.LoosenedKeyword:
    """LoosenedKeyword as a message."""
    return tool_pb2.LoosenedKeyword(path=value.path, reason=value.reason)


def tool_registration(value: events.ToolRegistration) -> tool_pb2.ToolRegistration:
    """ToolRegistration as a message."""
    return tool_pb2.ToolRegistration(
        name=value.name,
        version=value.version,
        error=None if value.error is None else to_status(value.error),
        loosened=[loosened_keyword(each) for each in value.loosened],
    )


def tools_registered(value: events.ToolsRegistered) -> tool_pb2.ToolsRegistered:
    """ToolsRegistered as a message."""
    return tool_pb2.ToolsRegistered(
        frame_sequence=value.frame_sequence,
        registrations=[tool_registration(each) for each in value.registrations],
    )


def tools_withdrawn(value: events.ToolsWithdrawn) -> tool_pb2.ToolsWithdrawn:
    """ToolsWithdrawn as a message."""
    return tool_pb2.ToolsWithdrawn(
        frame_sequence=value.frame_sequence, names=value.names, unknown_names=value.unknown_names
    )


def turn_queued(value: events.TurnQueued) -> turn_pb2.TurnQueued:
    """TurnQueued as a message."""
    return turn_pb2.TurnQueued(position=value.position)


def turn_started(value: events.TurnStarted) -> turn_pb2.TurnStarted:
    """TurnStarted as a message."""
    return turn_pb2.TurnStarted(waited=duration(value.waited_s))


def step_started(value: events.StepStarted) -> turn_pb2.StepStarted:
    """StepStarted as a message."""
    return turn_pb2.StepStarted(step=value.step, prompt_tokens=value.prompt_tokens)


def reasoning_delta(value: events.ReasoningDelta) -> turn_pb2.ReasoningDelta:
    """ReasoningDelta as a message."""
    return turn_pb2.ReasoningDelta(text=value.text)


def tool_call_started(value: events.ToolCallStarted) -> turn_pb2.ToolCallStarted:
    """ToolCallStarted as a message."""
    return turn_pb2.ToolCallStarted(call_id=value.call_id, tool_name=value.tool_name)


def tool_call_arguments_delta(
    value: events.ToolCallArgumentsDelta,
) -> turn_pb2.ToolCallArgumentsDelta:
    """ToolCallArgumentsDelta as a message."""
    return turn_pb2.ToolCallArgumentsDelta(call_id=value.call_id, json_fragment=value.json_fragment)


def tool_call_ready(value: events.ToolCallReady) -> turn_pb2.ToolCallReady:
    """ToolCallReady as a message."""
    return turn_pb2.ToolCallReady(
        call_id=value.call_id, tool_name=value.tool_name, arguments_json=value.arguments_json
    )


def tool_call_progress(value: events.ToolCallProgress) -> turn_pb2.ToolCallProgress:
    """ToolCallProgress as a message."""
    return turn_pb2.ToolCallProgress(
        call_id=value.call_id, message=value.message, fraction=value.fraction
    )


def content_part(value: events.ContentPart) -> content_pb2.ContentPart:
    """ContentPart as a message."""
    message = content_pb2.ContentPart()
    if value.text is not None:
        message.text = value.text
    return message


def tool_call_completed(value: events.ToolCallCompleted) -> turn_pb2.ToolCallCompleted:
    """ToolCallCompleted as a message."""
    return turn_pb2.ToolCallCompleted(
        call_id=value.call_id,
        outcome=turn_pb2.ToolCallOutcome.ValueType(value.outcome.value),
        result_json=value.result_json,
        error=None if value.error is None else to_status(value.error),
        wait_time=duration(value.wait_time_s),
        source=turn_pb2.ResultSource.ValueType(value.source.value),
        cache_entry_version=value.cache_entry_version,
        cache_age=None if value.cache_age_s is None else duration(value.cache_age_s),
        prediction_id=value.prediction_id,
        time_saved=None if value.time_saved_s is None else duration(value.time_saved_s),
        content=[content_part(each) for each in value.content],
    )


def token_usage(value: events.TokenUsage) -> turn_pb2.TokenUsage:
    """TokenUsage as a message."""
    return turn_pb2.TokenUsage(
        input_tokens=value.input_tokens,
        cached_tokens=value.cached_tokens,
        output_tokens=value.output_tokens,
        reasoning_tokens=value.reasoning_tokens,
    )


def step_completed(value: events.StepCompleted) -> turn_pb2.StepCompleted:
    """StepCompleted as a message."""
    return turn_pb2.StepCompleted(
        step=value.step,
        finish_reason=turn_pb2.StepFinishReason.ValueType(value.finish_reason.value),
        usage=token_usage(value.usage),
    )


def draft_report(value: events.DraftReport) -> turn_pb2.DraftReport:
    """DraftReport as a message."""
    return turn_pb2.DraftReport(
        predictor=None
        if value.predictor is None
        else prediction_pb2.Predictor.ValueType(value.predictor.value),
        tool_name=value.tool_name,
        tokens_proposed=value.tokens_proposed,
        tokens_accepted=value.tokens_accepted,
        tokens_wasted=value.tokens_wasted,
        saved=duration(value.saved_s),
    )


def turn_report(value: events.TurnReport) -> turn_pb2.TurnReport:
    """TurnReport as a message."""
    return turn_pb2.TurnReport(
        wall_time=duration(value.wall_time_s),
        queue_time=duration(value.queue_time_s),
        time_to_first_token=None
        if value.time_to_first_token_s is None
        else duration(value.time_to_first_token_s),
        generation_time=duration(value.generation_time_s),
        tool_time_exposed=duration(value.tool_time_exposed_s),
        tool_time_hidden=duration(value.tool_time_hidden_s),
        continuation_time=duration(value.continuation_time_s),
        saved_by_overlap=duration(value.saved_by_overlap_s),
        saved_by_drafts=duration(value.saved_by_drafts_s),
        saved_by_continuation=duration(value.saved_by_continuation_s),
        wasted_time=duration(value.wasted_time_s),
        steps=value.steps,
        tool_calls=value.tool_calls,
        usage=token_usage(value.usage),
        cache_hits=value.cache_hits,
        predictions=value.predictions,
        predictions_confirmed=value.predictions_confirmed,
        draft_tokens_proposed=value.draft_tokens_proposed,
        draft_tokens_accepted=value.draft_tokens_accepted,
        draft_tokens_wasted=value.draft_tokens_wasted,
        drafts=[draft_report(each) for each in value.drafts],
    )


def turn_completed(value: events.TurnCompleted) -> turn_pb2.TurnCompleted:
    """TurnCompleted as a message."""
    return turn_pb2.TurnCompleted(
        outcome=turn_pb2.TurnOutcome.ValueType(value.outcome.value),
        text=value.text,
        error=None if value.error is None else to_status(value.error),
        report=turn_report(value.report),
        merged_into_turn_id=value.merged_into_turn_id,
    )


def trace_context(value: events.TraceContext) -> common_pb2.TraceContext:
    """TraceContext as a message."""
    return common_pb2.TraceContext(traceparent=value.traceparent, tracestate=value.tracestate)


def invoke(value: events.Invoke) -> invocation_pb2.Invoke:
    """Invoke as a message."""
    return invocation_pb2.Invoke(
        invocation_id=value.invocation_id,
        execution_id=value.execution_id,
        call_id=value.call_id,
        prediction_id=value.prediction_id,
        turn_id=value.turn_id,
        conversation_id=value.conversation_id,
        tool_name=value.tool_name,
        tool_version=value.tool_version,
        arguments_json=value.arguments_json,
        timeout=duration(value.timeout_s),
        trace_context=trace_context(value.trace_context),
    )


def cancel_invocation(value: events.CancelInvocation) -> invocation_pb2.CancelInvocation:
    """CancelInvocation as a message."""
    return invocation_pb2.CancelInvocation(
        invocation_id=value.invocation_id,
        reason=invocation_pb2.InvocationCancelReason.ValueType(value.reason.value),
    )


def prediction_proposed(value: events.PredictionProposed) -> prediction_pb2.PredictionProposed:
    """PredictionProposed as a message."""
    return prediction_pb2.PredictionProposed(
        prediction_id=value.prediction_id,
        tool_name=value.tool_name,
        tool_version=value.tool_version,
        arguments_json=value.arguments_json,
        predictor=prediction_pb2.Predictor.ValueType(value.predictor.value),
        confidence=value.confidence,
        depth=value.depth,
    )


def prediction_launched(value: events.PredictionLaunched) -> prediction_pb2.PredictionLaunched:
    """PredictionLaunched as a message."""
    return prediction_pb2.PredictionLaunched(
        prediction_id=value.prediction_id, invocation_id=value.invocation_id
    )


def prediction_ready(value: events.PredictionReady) -> prediction_pb2.PredictionReady:
    """PredictionReady as a message."""
    return prediction_pb2.PredictionReady(
        prediction_id=value.prediction_id, run_time=duration(value.run_time_s)
    )


def prediction_confirmed(value: events.PredictionConfirmed) -> prediction_pb2.PredictionConfirmed:
    """PredictionConfirmed as a message."""
    return prediction_pb2.PredictionConfirmed(
        prediction_id=value.prediction_id,
        call_id=value.call_id,
        lead_time=duration(value.lead_time_s),
        draft_tokens_proposed=value.draft_tokens_proposed,
        draft_tokens_accepted=value.draft_tokens_accepted,
        saved_by_draft=duration(value.saved_by_draft_s),
    )


def prediction_discarded(value: events.PredictionDiscarded) -> prediction_pb2.PredictionDiscarded:
    """PredictionDiscarded as a message."""
    return prediction_pb2.PredictionDiscarded(
        prediction_id=value.prediction_id,
        reason=prediction_pb2.DiscardReason.ValueType(value.reason.value),
        time_wasted=duration(value.time_wasted_s),
        call_id=value.call_id,
        draft_tokens_proposed=value.draft_tokens_proposed,
        draft_tokens_accepted=value.draft_tokens_accepted,
        saved_by_draft=duration(value.saved_by_draft_s),
    )


def go_away(value: events.GoAway) -> common_pb2.GoAway:
    """GoAway as a message."""
    return common_pb2.GoAway(time_left=duration(value.time_left_s), message=value.message)


def invocation_committed(value: events.InvocationCommitted) -> invocation_pb2.InvocationCommitted:
    """InvocationCommitted as a message."""
    return invocation_pb2.InvocationCommitted(
        invocation_id=value.invocation_id, call_id=value.call_id
    )


@functools.singledispatch
def _fill(event: object, frame: Frame) -> None:
    raise AssertionError(f"no frame is known for {type(event).__name__} {frame.sequence}")


@_fill.register
def _fill_frame_rejected(event: events.FrameRejected, frame: Frame) -> None:
    frame.frame_rejected.CopyFrom(frame_rejected(event))


@_fill.register
def _fill_tools_registered(event: events.ToolsRegistered, frame: Frame) -> None:
    frame.tools_registered.CopyFrom(tools_registered(event))


@_fill.register
def _fill_tools_withdrawn(event: events.ToolsWithdrawn, frame: Frame) -> None:
    frame.tools_withdrawn.CopyFrom(tools_withdrawn(event))


@_fill.register
def _fill_turn_queued(event: events.TurnQueued, frame: Frame) -> None:
    frame.turn_queued.CopyFrom(turn_queued(event))


@_fill.register
def _fill_turn_started(event: events.TurnStarted, frame: Frame) -> None:
    frame.turn_started.CopyFrom(turn_started(event))


@_fill.register
def _fill_step_started(event: events.StepStarted, frame: Frame) -> None:
    frame.step_started.CopyFrom(step_started(event))


@_fill.register
def _fill_reasoning_delta(event: events.ReasoningDelta, frame: Frame) -> None:
    frame.reasoning_delta.CopyFrom(reasoning_delta(event))


@_fill.register
def _fill_tool_call_started(event: events.ToolCallStarted, frame: Frame) -> None:
    frame.tool_call_started.CopyFrom(tool_call_started(event))


@_fill.register
def _fill_tool_call_arguments_delta(event: events.ToolCallArgumentsDelta, frame: Frame) -> None:
    frame.tool_call_arguments_delta.CopyFrom(tool_call_arguments_delta(event))


@_fill.register
def _fill_tool_call_ready(event: events.ToolCallReady, frame: Frame) -> None:
    frame.tool_call_ready.CopyFrom(tool_call_ready(event))


@_fill.register
def _fill_tool_call_progress(event: events.ToolCallProgress, frame: Frame) -> None:
    frame.tool_call_progress.CopyFrom(tool_call_progress(event))


@_fill.register
def _fill_tool_call_completed(event: events.ToolCallCompleted, frame: Frame) -> None:
    frame.tool_call_completed.CopyFrom(tool_call_completed(event))


@_fill.register
def _fill_step_completed(event: events.StepCompleted, frame: Frame) -> None:
    frame.step_completed.CopyFrom(step_completed(event))


@_fill.register
def _fill_turn_completed(event: events.TurnCompleted, frame: Frame) -> None:
    frame.turn_completed.CopyFrom(turn_completed(event))


@_fill.register
def _fill_invoke(event: events.Invoke, frame: Frame) -> None:
    frame.invoke.CopyFrom(invoke(event))


@_fill.register
def _fill_cancel_invocation(event: events.CancelInvocation, frame: Frame) -> None:
    frame.cancel_invocation.CopyFrom(cancel_invocation(event))


@_fill.register
def _fill_prediction_proposed(event: events.PredictionProposed, frame: Frame) -> None:
    frame.prediction_proposed.CopyFrom(prediction_proposed(event))


@_fill.register
def _fill_prediction_launched(event: events.PredictionLaunched, frame: Frame) -> None:
    frame.prediction_launched.CopyFrom(prediction_launched(event))


@_fill.register
def _fill_prediction_ready(event: events.PredictionReady, frame: Frame) -> None:
    frame.prediction_ready.CopyFrom(prediction_ready(event))


@_fill.register
def _fill_prediction_confirmed(event: events.PredictionConfirmed, frame: Frame) -> None:
    frame.prediction_confirmed.CopyFrom(prediction_confirmed(event))


@_fill.register
def _fill_prediction_discarded(event: events.PredictionDiscarded, frame: Frame) -> None:
    frame.prediction_discarded.CopyFrom(prediction_discarded(event))


@_fill.register
def _fill_go_away(event: events.GoAway, frame: Frame) -> None:
    frame.go_away.CopyFrom(go_away(event))


@_fill.register
def _fill_invocation_committed(event: events.InvocationCommitted, frame: Frame) -> None:
    frame.invocation_committed.CopyFrom(invocation_committed(event))
