"""What a client says of its turns, as values: each field is checked against its range."""

from __future__ import annotations

from precall.v1 import common_pb2, invocation_pb2, turn_pb2
from precall_service.agent.limits import AgentLimits
from precall_service.domain.tools import TOOL_NAME
from precall_service.domain.turn import (
    GenerationSettings,
    ToolChoice,
    ToolChoiceMode,
    TraceContext,
    TurnLimits,
    TurnSpec,
)
from precall_service.tools.link import (
    HandlerAnswer,
    HandlerCancelled,
    HandlerError,
    HandlerResult,
)
from precall_service.tools.text import shorten
from precall_service.transport.fields import check_count, check_text, invalid, seconds
from precall_service.transport.statuses import not_served

TURN_ID_BYTES_MAX = 128
STOP_TEXTS_MAX = 16
STOP_BYTES_MAX = 256
TRACE_CONTEXT_CHARS_MAX = 512
"""Of each header, as W3C Trace Context (3.3.1.5) asks to carry at least."""
SEED_MAX = 2**63 - 1


def turn_spec(frame: turn_pb2.StartTurn, limits: AgentLimits) -> TurnSpec:
    """A turn to start.

    Raises:
        ServiceError: what is wrong with it.
    """
    if not 1 <= len(frame.turn_id.encode()) <= TURN_ID_BYTES_MAX:
        size = len(frame.turn_id.encode())
        raise invalid(
            "start_turn.turn_id", f"it has {size} bytes, 1 to {TURN_ID_BYTES_MAX} are needed"
        )
    if not frame.text.strip():
        raise invalid("start_turn.text", "the user's message is empty")
    check_text("start_turn.text", frame.text, limits.text_bytes_max)
    if frame.while_running not in {
        turn_pb2.WHILE_RUNNING_UNSPECIFIED,
        turn_pb2.WHILE_RUNNING_REJECT,
    }:
        raise not_served("StartTurn.while_running", "CAPABILITY_INTERJECTION")
    return TurnSpec(
        turn_id=frame.turn_id,
        text=frame.text,
        generation=_generation(frame.generation, limits),
        limits=_turn_limits(frame.limits, limits.turn),
        trace_context=_trace_context(frame.trace_context),
    )


def handler_answer(frame: invocation_pb2.InvocationResult) -> HandlerAnswer:
    """How a handler's run ended.

    Raises:
        ServiceError: FIELD_INVALID, it says nothing.
    """
    match frame.WhichOneof("outcome"):
        case "result_json":
            return HandlerResult(frame.result_json)
        case "error":
            return HandlerError(frame.error.type, frame.error.message)
        case "cancelled":
            return HandlerCancelled()
        case None:
            raise invalid(
                "invocation_result.outcome",
                "it is unset: one of result_json, error and cancelled is needed",
            )


def fraction(frame: invocation_pb2.InvocationProgress) -> float | None:
    """How far a handler is; None where it does not say.

    Raises:
        ServiceError: FIELD_INVALID.
    """
    if not frame.HasField("fraction"):
        return None
    if not 0 <= frame.fraction <= 1:
        raise invalid("invocation_progress.fraction", f"{frame.fraction:g} is not from 0 to 1")
    return frame.fraction


def _generation(frame: turn_pb2.GenerationSettings, limits: AgentLimits) -> GenerationSettings:
    path = "start_turn.generation"
    temperature = frame.temperature if frame.HasField("temperature") else None
    top_p = frame.top_p if frame.HasField("top_p") else None
    top_k = frame.top_k if frame.HasField("top_k") else None
    seed = frame.seed if frame.HasField("seed") else None
    max_tokens = frame.max_tokens if frame.HasField("max_tokens") else None
    if temperature is not None and not 0 <= temperature <= 2:
        raise invalid(f"{path}.temperature", f"{temperature:g} is not from 0 to 2")
    if top_p is not None and not 0 < top_p <= 1:
        raise invalid(f"{path}.top_p", f"{top_p:g} is not above 0 and at most 1")
    if top_k is not None and top_k != -1 and top_k < 1:
        raise invalid(f"{path}.top_k", f"{top_k} is neither -1 (all tokens) nor at least 1")
    if seed is not None and not 0 <= seed <= SEED_MAX:
        raise invalid(f"{path}.seed", f"{seed} is not from 0 to {SEED_MAX}")
    if max_tokens is not None and not 1 <= max_tokens <= limits.turn.max_tokens:
        raise invalid(
            f"{path}.max_tokens", f"{max_tokens} is not from 1 to {limits.turn.max_tokens}"
        )
    stop = tuple(frame.stop)
    check_count(f"{path}.stop", len(stop), STOP_TEXTS_MAX, "texts")
    for index, text in enumerate(stop):
        if not 1 <= len(text.encode()) <= STOP_BYTES_MAX:
            raise invalid(
                f"{path}.stop[{index}]",
                f"it has {len(text.encode())} bytes, 1 to {STOP_BYTES_MAX} are needed",
            )
    return GenerationSettings(
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        seed=seed,
        max_tokens=max_tokens,
        stop=stop,
        tool_choice=_tool_choice(frame.tool_choice),
    )


_MODES = {
    turn_pb2.TOOL_CHOICE_MODE_UNSPECIFIED: ToolChoiceMode.AUTO,
    turn_pb2.TOOL_CHOICE_MODE_AUTO: ToolChoiceMode.AUTO,
    turn_pb2.TOOL_CHOICE_MODE_NONE: ToolChoiceMode.NONE,
    turn_pb2.TOOL_CHOICE_MODE_REQUIRED: ToolChoiceMode.REQUIRED,
    turn_pb2.TOOL_CHOICE_MODE_NAMED: ToolChoiceMode.NAMED,
}


def _tool_choice(frame: turn_pb2.ToolChoice) -> ToolChoice:
    path = "start_turn.generation.tool_choice"
    mode = _MODES.get(frame.mode)
    if mode is None:
        raise invalid(f"{path}.mode", f"{frame.mode} is not known to this server")
    if (mode is ToolChoiceMode.NAMED) != bool(frame.tool_name):
        raise invalid(f"{path}.tool_name", "it goes with NAMED, and with NAMED alone")
    if frame.tool_name and not TOOL_NAME.fullmatch(frame.tool_name):
        name = shorten(frame.tool_name, 80)
        raise invalid(f"{path}.tool_name", f"{name!r} is not a tool's name")
    return ToolChoice(mode=mode, tool_name=frame.tool_name)


def _turn_limits(frame: turn_pb2.TurnLimits, most: TurnLimits) -> TurnLimits:
    path = "start_turn.limits"
    steps = frame.max_steps if frame.HasField("max_steps") else most.max_steps
    tokens = frame.max_tokens if frame.HasField("max_tokens") else most.max_tokens
    duration_s = most.max_duration_s
    if frame.HasField("max_duration"):
        duration_s = seconds(frame.max_duration)
    if not 1 <= steps <= most.max_steps:
        raise invalid(f"{path}.max_steps", f"{steps} is not from 1 to {most.max_steps}")
    if not 1 <= tokens <= most.max_tokens:
        raise invalid(f"{path}.max_tokens", f"{tokens} is not from 1 to {most.max_tokens}")
    if not 0 < duration_s <= most.max_duration_s:
        raise invalid(
            f"{path}.max_duration",
            f"{duration_s:g} s is not above 0 and at most {most.max_duration_s:g} s",
        )
    return TurnLimits(max_steps=steps, max_tokens=tokens, max_duration_s=duration_s)


def _trace_context(frame: common_pb2.TraceContext) -> TraceContext:
    """No trace is worth a turn: what cannot be one is dropped."""
    headers = frame.traceparent, frame.tracestate
    if any(len(header) > TRACE_CONTEXT_CHARS_MAX for header in headers):
        return TraceContext()
    return TraceContext(traceparent=frame.traceparent, tracestate=frame.tracestate)
