"""What the service says, as frames: one function a kind of event."""

from __future__ import annotations

import functools

from google.protobuf.duration_pb2 import Duration

from precall.v1 import agent_pb2, common_pb2, invocation_pb2, tool_pb2, turn_pb2
from precall_service.agent import outbox
from precall_service.domain import events
from precall_service.domain.turn import TokenUsage, TurnReport
from precall_service.tools.link import Invocation
from precall_service.tools.toolset import Registration
from precall_service.transport.statuses import to_status

Frame = agent_pb2.ConverseResponse


def converse_response(numbered: outbox.NumberedEvent, acknowledged: int) -> Frame:
    """The frame of a numbered event."""
    event = numbered.event
    if type(event) is events.TextDelta:  # first, and built in one go: the hot path
        return Frame(
            sequence=numbered.sequence,
            acknowledged=acknowledged,
            turn_id=numbered.turn_id,
            text_delta=turn_pb2.TextDelta(text=event.text),
        )
    frame = Frame(sequence=numbered.sequence, acknowledged=acknowledged, turn_id=numbered.turn_id)
    _fill(event, frame)
    return frame


def duration(seconds: float) -> Duration:
    """Seconds as a protobuf Duration."""
    value = Duration()
    value.FromNanoseconds(round(seconds * 1e9))
    return value


def registration(entry: Registration) -> tool_pb2.ToolRegistration:
    """The outcome for one declared tool."""
    return tool_pb2.ToolRegistration(
        name=entry.name,
        version=entry.version,
        error=None if entry.error is None else to_status(entry.error),
    )


def usage(tokens: TokenUsage) -> turn_pb2.TokenUsage:
    """Tokens used."""
    return turn_pb2.TokenUsage(
        input_tokens=tokens.input_tokens,
        cached_tokens=tokens.cached_tokens,
        output_tokens=tokens.output_tokens,
        reasoning_tokens=tokens.reasoning_tokens,
    )


def report(values: TurnReport) -> turn_pb2.TurnReport:
    """Where a turn's time and tokens went."""
    first = values.time_to_first_token_s
    return turn_pb2.TurnReport(
        wall_time=duration(values.wall_s),
        queue_time=duration(values.queue_s),
        time_to_first_token=None if first is None else duration(first),
        generation_time=duration(values.generation_s),
        tool_time_exposed=duration(values.tool_exposed_s),
        continuation_time=duration(values.continuation_s),
        steps=values.steps,
        tool_calls=values.tool_calls,
        usage=usage(values.usage),
    )


@functools.singledispatch
def _fill(event: object, frame: Frame) -> None:  # noqa: ARG001 - the registered ones fill it
    raise AssertionError(f"no frame is known for {type(event).__name__}")


@_fill.register
def _turn_queued(event: events.TurnQueued, frame: Frame) -> None:
    frame.turn_queued.CopyFrom(turn_pb2.TurnQueued(position=event.position))


@_fill.register
def _turn_started(event: events.TurnStarted, frame: Frame) -> None:
    frame.turn_started.CopyFrom(turn_pb2.TurnStarted(waited=duration(event.waited_s)))


@_fill.register
def _step_started(event: events.StepStarted, frame: Frame) -> None:
    frame.step_started.CopyFrom(
        turn_pb2.StepStarted(step=event.step, prompt_tokens=event.prompt_tokens)
    )


@_fill.register
def _reasoning_delta(event: events.ReasoningDelta, frame: Frame) -> None:
    frame.reasoning_delta.CopyFrom(turn_pb2.ReasoningDelta(text=event.text))


@_fill.register
def _tool_call_started(event: events.ToolCallStarted, frame: Frame) -> None:
    frame.tool_call_started.CopyFrom(
        turn_pb2.ToolCallStarted(call_id=event.call_id, tool_name=event.tool_name)
    )


@_fill.register
def _tool_call_arguments_delta(event: events.ToolCallArgumentsDelta, frame: Frame) -> None:
    frame.tool_call_arguments_delta.CopyFrom(
        turn_pb2.ToolCallArgumentsDelta(call_id=event.call_id, json_fragment=event.json_fragment)
    )


@_fill.register
def _tool_call_ready(event: events.ToolCallReady, frame: Frame) -> None:
    frame.tool_call_ready.CopyFrom(
        turn_pb2.ToolCallReady(
            call_id=event.call_id, tool_name=event.tool_name, arguments_json=event.arguments_json
        )
    )


@_fill.register
def _tool_call_progress(event: events.ToolCallProgress, frame: Frame) -> None:
    frame.tool_call_progress.CopyFrom(
        turn_pb2.ToolCallProgress(
            call_id=event.call_id, message=event.message, fraction=event.fraction
        )
    )


@_fill.register
def _tool_call_completed(event: events.ToolCallCompleted, frame: Frame) -> None:
    has_result = event.error is None
    frame.tool_call_completed.CopyFrom(
        turn_pb2.ToolCallCompleted(
            call_id=event.call_id,
            outcome=turn_pb2.ToolCallOutcome.ValueType(event.outcome.value),
            result_json=event.result_json,
            error=None if event.error is None else to_status(event.error),
            wait_time=duration(event.wait_s),
            source=(
                turn_pb2.RESULT_SOURCE_COMMITTED
                if has_result
                else turn_pb2.RESULT_SOURCE_UNSPECIFIED
            ),
        )
    )


@_fill.register
def _step_completed(event: events.StepCompleted, frame: Frame) -> None:
    frame.step_completed.CopyFrom(
        turn_pb2.StepCompleted(
            step=event.step,
            finish_reason=turn_pb2.StepFinishReason.ValueType(event.finish.value),
            usage=usage(event.usage),
        )
    )


@_fill.register
def _turn_completed(event: events.TurnCompleted, frame: Frame) -> None:
    frame.turn_completed.CopyFrom(
        turn_pb2.TurnCompleted(
            outcome=turn_pb2.TurnOutcome.ValueType(event.outcome.value),
            text=event.text,
            error=None if event.error is None else to_status(event.error),
            report=report(event.report),
        )
    )


@_fill.register
def _invoke(event: Invocation, frame: Frame) -> None:
    frame.invoke.CopyFrom(
        invocation_pb2.Invoke(
            invocation_id=event.invocation_id,
            execution_id=event.execution_id,
            call_id=event.call_id,
            turn_id=event.turn_id,
            conversation_id=event.conversation_id,
            tool_name=event.tool_name,
            tool_version=event.tool_version,
            arguments_json=event.arguments_json,
            timeout=duration(event.timeout_s),
            trace_context=common_pb2.TraceContext(
                traceparent=event.trace_context.traceparent,
                tracestate=event.trace_context.tracestate,
            ),
        )
    )


@_fill.register
def _cancel_invocation(event: outbox.InvocationCancelled, frame: Frame) -> None:
    frame.cancel_invocation.CopyFrom(
        invocation_pb2.CancelInvocation(
            invocation_id=event.invocation_id,
            reason=invocation_pb2.InvocationCancelReason.ValueType(event.reason.value),
        )
    )


@_fill.register
def _frame_rejected(event: outbox.FrameRejected, frame: Frame) -> None:
    frame.frame_rejected.CopyFrom(
        common_pb2.FrameRejected(frame_sequence=event.frame_sequence, error=to_status(event.error))
    )


@_fill.register
def _tools_registered(event: outbox.ToolsRegistered, frame: Frame) -> None:
    frame.tools_registered.CopyFrom(
        tool_pb2.ToolsRegistered(
            frame_sequence=event.frame_sequence,
            registrations=map(registration, event.registrations),
        )
    )


@_fill.register
def _tools_withdrawn(event: outbox.ToolsWithdrawn, frame: Frame) -> None:
    frame.tools_withdrawn.CopyFrom(
        tool_pb2.ToolsWithdrawn(
            frame_sequence=event.frame_sequence,
            names=event.names,
            unknown_names=event.unknown_names,
        )
    )


@_fill.register
def _go_away(event: outbox.GoAway, frame: Frame) -> None:
    frame.go_away.CopyFrom(
        common_pb2.GoAway(time_left=duration(event.time_left_s), message=event.message)
    )
