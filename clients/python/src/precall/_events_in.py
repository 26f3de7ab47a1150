"""Turns frames into the client's events: a function for each message.

Generated from proto/precall/v1 by `make gen`. Do not edit.
"""

from __future__ import annotations

from collections.abc import Callable

from precall import _errors, _events
from precall._events import Event
from precall._frames import member, seconds
from precall.v1 import agent_pb2, content_pb2, prediction_pb2, turn_pb2

Frame = agent_pb2.ConverseResponse


def event(frame: Frame) -> Event | None:
    """Returns the frame's event; None if it is not an event of a turn or this client is older."""
    kind = frame.WhichOneof("event")
    if kind == "text_delta":  # first and inline, since it comes with every token
        return _events.TextDelta(frame.text_delta.text)
    read = _READERS.get(kind or "")
    return None if read is None else read(frame)


def turn_queued(message: turn_pb2.TurnQueued) -> _events.TurnQueued:
    """Returns a TurnQueued."""
    return _events.TurnQueued(position=message.position)


def turn_started(message: turn_pb2.TurnStarted) -> _events.TurnStarted:
    """Returns a TurnStarted."""
    return _events.TurnStarted(waited_s=seconds(message.waited))


def step_started(message: turn_pb2.StepStarted) -> _events.StepStarted:
    """Returns a StepStarted."""
    return _events.StepStarted(step=message.step, prompt_tokens=message.prompt_tokens)


def reasoning_delta(message: turn_pb2.ReasoningDelta) -> _events.ReasoningDelta:
    """Returns a ReasoningDelta."""
    return _events.ReasoningDelta(text=message.text)


def tool_call_started(message: turn_pb2.ToolCallStarted) -> _events.ToolCallStarted:
    """Returns a ToolCallStarted."""
    return _events.ToolCallStarted(call_id=message.call_id, tool_name=message.tool_name)


def tool_call_arguments_delta(
    message: turn_pb2.ToolCallArgumentsDelta,
) -> _events.ToolCallArgumentsDelta:
    """Returns a ToolCallArgumentsDelta."""
    return _events.ToolCallArgumentsDelta(
        call_id=message.call_id, json_fragment=message.json_fragment
    )


def tool_call_ready(message: turn_pb2.ToolCallReady) -> _events.ToolCallReady:
    """Returns a ToolCallReady."""
    return _events.ToolCallReady(
        call_id=message.call_id, tool_name=message.tool_name, arguments_json=message.arguments_json
    )


def tool_call_progress(message: turn_pb2.ToolCallProgress) -> _events.ToolCallProgress:
    """Returns a ToolCallProgress."""
    return _events.ToolCallProgress(
        call_id=message.call_id,
        message=message.message,
        fraction=message.fraction if message.HasField("fraction") else None,
    )


def content_part(message: content_pb2.ContentPart) -> _events.ContentPart:
    """Returns a ContentPart."""
    return _events.ContentPart(text=message.text if message.HasField("text") else None)


def tool_call_completed(message: turn_pb2.ToolCallCompleted) -> _events.ToolCallCompleted:
    """Returns a ToolCallCompleted."""
    return _events.ToolCallCompleted(
        call_id=message.call_id,
        outcome=member(
            _events.ToolCallOutcome, turn_pb2.ToolCallOutcome.DESCRIPTOR, message.outcome
        ),
        result_json=message.result_json,
        error=_errors.from_status(message.error, family=_errors.ToolCallError)
        if message.HasField("error")
        else None,
        wait_time_s=seconds(message.wait_time),
        source=member(_events.ResultSource, turn_pb2.ResultSource.DESCRIPTOR, message.source),
        cache_entry_version=message.cache_entry_version,
        cache_age_s=seconds(message.cache_age) if message.HasField("cache_age") else None,
        prediction_id=message.prediction_id,
        time_saved_s=seconds(message.time_saved) if message.HasField("time_saved") else None,
        content=tuple(content_part(each) for each in message.content),
    )


def token_usage(message: turn_pb2.TokenUsage) -> _events.TokenUsage:
    """Returns a TokenUsage."""
    return _events.TokenUsage(
        input_tokens=message.input_tokens,
        cached_tokens=message.cached_tokens,
        output_tokens=message.output_tokens,
        reasoning_tokens=message.reasoning_tokens,
    )


def step_completed(message: turn_pb2.StepCompleted) -> _events.StepCompleted:
    """Returns a StepCompleted."""
    return _events.StepCompleted(
        step=message.step,
        finish_reason=member(
            _events.StepFinishReason, turn_pb2.StepFinishReason.DESCRIPTOR, message.finish_reason
        ),
        usage=token_usage(message.usage),
    )


def draft_report(message: turn_pb2.DraftReport) -> _events.DraftReport:
    """Returns a DraftReport."""
    return _events.DraftReport(
        predictor=member(_events.Predictor, prediction_pb2.Predictor.DESCRIPTOR, message.predictor)
        if message.HasField("predictor")
        else None,
        tool_name=message.tool_name,
        tokens_proposed=message.tokens_proposed,
        tokens_accepted=message.tokens_accepted,
        tokens_wasted=message.tokens_wasted,
        saved_s=seconds(message.saved),
    )


def turn_report(message: turn_pb2.TurnReport) -> _events.TurnReport:
    """Returns a TurnReport."""
    return _events.TurnReport(
        wall_time_s=seconds(message.wall_time),
        queue_time_s=seconds(message.queue_time),
        time_to_first_token_s=seconds(message.time_to_first_token)
        if message.HasField("time_to_first_token")
        else None,
        generation_time_s=seconds(message.generation_time),
        tool_time_exposed_s=seconds(message.tool_time_exposed),
        tool_time_hidden_s=seconds(message.tool_time_hidden),
        continuation_time_s=seconds(message.continuation_time),
        saved_by_overlap_s=seconds(message.saved_by_overlap),
        saved_by_drafts_s=seconds(message.saved_by_drafts),
        saved_by_continuation_s=seconds(message.saved_by_continuation),
        wasted_time_s=seconds(message.wasted_time),
        steps=message.steps,
        tool_calls=message.tool_calls,
        usage=token_usage(message.usage),
        cache_hits=message.cache_hits,
        predictions=message.predictions,
        predictions_confirmed=message.predictions_confirmed,
        draft_tokens_proposed=message.draft_tokens_proposed,
        draft_tokens_accepted=message.draft_tokens_accepted,
        draft_tokens_wasted=message.draft_tokens_wasted,
        drafts=tuple(draft_report(each) for each in message.drafts),
    )


def turn_completed(message: turn_pb2.TurnCompleted) -> _events.TurnCompleted:
    """Returns a TurnCompleted."""
    return _events.TurnCompleted(
        outcome=member(_events.TurnOutcome, turn_pb2.TurnOutcome.DESCRIPTOR, message.outcome),
        text=message.text,
        error=_errors.from_status(message.error) if message.HasField("error") else None,
        report=turn_report(message.report),
        merged_into_turn_id=message.merged_into_turn_id,
    )


def prediction_proposed(message: prediction_pb2.PredictionProposed) -> _events.PredictionProposed:
    """Returns a PredictionProposed."""
    return _events.PredictionProposed(
        prediction_id=message.prediction_id,
        tool_name=message.tool_name,
        tool_version=message.tool_version,
        arguments_json=message.arguments_json,
        predictor=member(_events.Predictor, prediction_pb2.Predictor.DESCRIPTOR, message.predictor),
        confidence=message.confidence,
        depth=message.depth,
    )


def prediction_launched(message: prediction_pb2.PredictionLaunched) -> _events.PredictionLaunched:
    """Returns a PredictionLaunched."""
    return _events.PredictionLaunched(
        prediction_id=message.prediction_id, invocation_id=message.invocation_id
    )


def prediction_ready(message: prediction_pb2.PredictionReady) -> _events.PredictionReady:
    """Returns a PredictionReady."""
    return _events.PredictionReady(
        prediction_id=message.prediction_id, run_time_s=seconds(message.run_time)
    )


def prediction_confirmed(
    message: prediction_pb2.PredictionConfirmed,
) -> _events.PredictionConfirmed:
    """Returns a PredictionConfirmed."""
    return _events.PredictionConfirmed(
        prediction_id=message.prediction_id,
        call_id=message.call_id,
        lead_time_s=seconds(message.lead_time),
        draft_tokens_proposed=message.draft_tokens_proposed,
        draft_tokens_accepted=message.draft_tokens_accepted,
        saved_by_draft_s=seconds(message.saved_by_draft),
    )


def prediction_discarded(
    message: prediction_pb2.PredictionDiscarded,
) -> _events.PredictionDiscarded:
    """Returns a PredictionDiscarded."""
    return _events.PredictionDiscarded(
        prediction_id=message.prediction_id,
        reason=member(
            _events.DiscardReason, prediction_pb2.DiscardReason.DESCRIPTOR, message.reason
        ),
        time_wasted_s=seconds(message.time_wasted),
        call_id=message.call_id,
        draft_tokens_proposed=message.draft_tokens_proposed,
        draft_tokens_accepted=message.draft_tokens_accepted,
        saved_by_draft_s=seconds(message.saved_by_draft),
    )


_READERS: dict[str, Callable[[Frame], Event]] = {
    "turn_queued": lambda frame: turn_queued(frame.turn_queued),
    "turn_started": lambda frame: turn_started(frame.turn_started),
    "step_started": lambda frame: step_started(frame.step_started),
    "reasoning_delta": lambda frame: reasoning_delta(frame.reasoning_delta),
    "tool_call_started": lambda frame: tool_call_started(frame.tool_call_started),
    "tool_call_arguments_delta": lambda frame: tool_call_arguments_delta(
        frame.tool_call_arguments_delta
    ),
    "tool_call_ready": lambda frame: tool_call_ready(frame.tool_call_ready),
    "tool_call_progress": lambda frame: tool_call_progress(frame.tool_call_progress),
    "tool_call_completed": lambda frame: tool_call_completed(frame.tool_call_completed),
    "step_completed": lambda frame: step_completed(frame.step_completed),
    "turn_completed": lambda frame: turn_completed(frame.turn_completed),
    "prediction_proposed": lambda frame: prediction_proposed(frame.prediction_proposed),
    "prediction_launched": lambda frame: prediction_launched(frame.prediction_launched),
    "prediction_ready": lambda frame: prediction_ready(frame.prediction_ready),
    "prediction_confirmed": lambda frame: prediction_confirmed(frame.prediction_confirmed),
    "prediction_discarded": lambda frame: prediction_discarded(frame.prediction_discarded),
}
