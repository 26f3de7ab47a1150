"""Turns a client's frames about turns and invocations into values; checks each field's range."""

from __future__ import annotations

from precall.v1 import common_pb2, invocation_pb2, turn_pb2
from precall_service.agent.limits import AgentLimits
from precall_service.domain.errors import ServiceError
from precall_service.domain.events import TraceContext
from precall_service.domain.turn import TurnLimits, TurnSpec
from precall_service.tools.link import (
    HandlerAnswer,
    HandlerCancelled,
    HandlerError,
    HandlerResult,
    HandlerUnusable,
)
from precall_service.transport.content_in import content_text
from precall_service.transport.fields import check_text, invalid, seconds
from precall_service.transport.generation_in import generation_settings
from precall_service.transport.statuses import not_served

TURN_ID_BYTES_MAX = 128
TRACE_CONTEXT_CHARS_MAX = 512
"""The limit for each header: W3C Trace Context (3.3.1.5) asks to propagate at least this many."""


def turn_spec(frame: turn_pb2.StartTurn, limits: AgentLimits) -> TurnSpec:
    """Returns the turn to start.

    Raises:
        ServiceError: FIELD_INVALID, TOO_LARGE or NOT_SERVED, naming the field.
    """
    if not 1 <= len(frame.turn_id.encode()) <= TURN_ID_BYTES_MAX:
        size = len(frame.turn_id.encode())
        raise invalid(
            "start_turn.turn_id", f"it must have 1 to {TURN_ID_BYTES_MAX} bytes, not {size}"
        )
    text = content_text("start_turn.content", frame.content)
    check_text("start_turn.content", text, limits.text_bytes_max)
    if not text.strip():
        raise invalid("start_turn.content", "the user's message is empty")
    if frame.while_running not in {
        turn_pb2.WHILE_RUNNING_UNSPECIFIED,
        turn_pb2.WHILE_RUNNING_REJECT,
    }:
        raise not_served("StartTurn.while_running", "CAPABILITY_INTERJECTION")
    return TurnSpec(
        turn_id=frame.turn_id,
        text=text,
        generation=generation_settings(frame.generation, limits),
        limits=_turn_limits(frame.limits, limits.turn),
        trace_context=_trace_context(frame.trace_context),
    )


def handler_answer(frame: invocation_pb2.InvocationResult) -> HandlerAnswer:
    """Returns how a handler's run ended. Invalid content ends the run too, with its error.

    Raises:
        ServiceError: FIELD_INVALID if no outcome is set.
    """
    match frame.WhichOneof("outcome"):
        case "result_json":
            try:
                content = content_text("invocation_result.content", frame.content)
            except ServiceError as error:
                return HandlerUnusable(error)
            return HandlerResult(frame.result_json, content)
        case "error":
            return HandlerError(frame.error.type, frame.error.message)
        case "cancelled":
            return HandlerCancelled()
        case None:
            raise invalid(
                "invocation_result.outcome",
                "it is unset: set one of result_json, error and cancelled",
            )


def fraction(frame: invocation_pb2.InvocationProgress) -> float | None:
    """Returns the fraction that a handler has done; None if it does not say.

    Raises:
        ServiceError: FIELD_INVALID if the fraction is not from 0 to 1.
    """
    if not frame.HasField("fraction"):
        return None
    if not 0 <= frame.fraction <= 1:
        raise invalid(
            "invocation_progress.fraction", f"it must be from 0 to 1, not {frame.fraction:g}"
        )
    return frame.fraction


def _turn_limits(frame: turn_pb2.TurnLimits, most: TurnLimits) -> TurnLimits:
    path = "start_turn.limits"
    steps = frame.max_steps if frame.HasField("max_steps") else most.max_steps
    tokens = frame.max_turn_tokens if frame.HasField("max_turn_tokens") else most.max_turn_tokens
    duration_s = most.max_duration_s
    if frame.HasField("max_duration"):
        duration_s = seconds(frame.max_duration)
    if not 1 <= steps <= most.max_steps:
        raise invalid(f"{path}.max_steps", f"it must be from 1 to {most.max_steps}, not {steps}")
    if not 1 <= tokens <= most.max_turn_tokens:
        raise invalid(
            f"{path}.max_turn_tokens", f"it must be from 1 to {most.max_turn_tokens}, not {tokens}"
        )
    if not 0 < duration_s <= most.max_duration_s:
        raise invalid(
            f"{path}.max_duration",
            f"it must be above 0 s and at most {most.max_duration_s:g} s, not {duration_s:g} s",
        )
    return TurnLimits(max_steps=steps, max_turn_tokens=tokens, max_duration_s=duration_s)


def _trace_context(frame: common_pb2.TraceContext) -> TraceContext:
    """Returns the trace context; drops one that is too long, which must not fail the turn."""
    headers = frame.traceparent, frame.tracestate
    if any(len(header) > TRACE_CONTEXT_CHARS_MAX for header in headers):
        return TraceContext()
    return TraceContext(traceparent=frame.traceparent, tracestate=frame.tracestate)
