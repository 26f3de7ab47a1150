"""What a client says, as values: every field is checked here against its documented range."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from google.protobuf.duration_pb2 import Duration

from precall.v1 import agent_pb2, common_pb2, invocation_pb2, tool_pb2, turn_pb2
from precall_service.agent.limits import AgentLimits
from precall_service.domain.errors import Reason, ServiceError
from precall_service.domain.json import JsonError, JsonObject, dump, parse_object
from precall_service.domain.messages import (
    AssistantMessage,
    Message,
    ToolCall,
    ToolMessage,
    Transcript,
    UserMessage,
)
from precall_service.domain.tools import CacheScope, ToolEffects
from precall_service.domain.turn import (
    GenerationSettings,
    ToolChoice,
    ToolChoiceMode,
    TraceContext,
    TurnLimits,
    TurnSpec,
)
from precall_service.tools.declarations import ToolProposal
from precall_service.tools.link import (
    HandlerAnswer,
    HandlerCancelled,
    HandlerError,
    HandlerResult,
)
from precall_service.transport.statuses import not_served

TURN_ID_BYTES_MAX = 128
STOP_TEXTS_MAX = 16
STOP_BYTES_MAX = 256
TEMPLATE_VARIABLES_BYTES_MAX = 16 << 10
SEED_MAX = 2**63 - 1

_TENANT_KEY = "precall-tenant"
_TENANT = re.compile(r"[A-Za-z0-9._-]{1,64}")


def tenant(metadata: Iterable[tuple[str, str | bytes]]) -> str:
    """The tenant that the call's metadata names.

    Raises:
        ServiceError: FIELD_INVALID; also for two names, as when a gateway adds one to the client's.
    """
    names = [value for key, value in metadata if key == _TENANT_KEY] or ["default"]
    if len(names) > 1:
        raise _invalid(f"metadata.{_TENANT_KEY}", f"it is there {len(names)} times, once is right")
    name = names[0]
    if not isinstance(name, str) or not _TENANT.fullmatch(name):
        raise _invalid(
            f"metadata.{_TENANT_KEY}", f"{name[:80]!r} is not 1 to 64 of A-Z a-z 0-9 . _ -"
        )
    return name


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """A handshake that has passed the checks."""

    transcript: Transcript
    proposals: tuple[ToolProposal, ...]
    client_name: str
    agent_name: str


def opening(frame: agent_pb2.OpenConversation, model: str, limits: AgentLimits) -> Opening:
    """A new conversation.

    Raises:
        ServiceError: what is wrong with the handshake.
    """
    if frame.model not in {"", model}:
        raise _invalid(
            "open.model",
            f"{frame.model[:200]!r} is not served here; this server has {model!r}: leave the "
            "field empty, or connect to the server that has the model",
        )
    _check_text("open.system_prompt", frame.system_prompt, limits)
    if len(frame.history) > limits.messages_max:
        raise _too_large("open.history", len(frame.history), limits.messages_max, "messages")
    return Opening(
        transcript=Transcript(
            messages=_history(frame, limits),
            system_prompt=frame.system_prompt,
            template_variables=_template_variables(frame.template_variables_json),
        ),
        proposals=tuple(map(proposal, frame.tools)),
        client_name=frame.client_name[:128],
        agent_name=frame.agent_name[:128],
    )


def proposal(tool: tool_pb2.Tool) -> ToolProposal:
    """A declared tool, unchecked: the tools package checks declarations."""
    effects = tool.effects
    tenant_wide = tool.cache.scope == tool_pb2.CACHE_SCOPE_TENANT
    return ToolProposal(
        name=tool.name,
        version=tool.version,
        description=tool.description,
        input_schema_json=tool.input_schema_json,
        output_schema_json=tool.output_schema_json,
        effects=ToolEffects(
            read_only=effects.read_only,
            speculation_safe=effects.speculation_safe,
            idempotent=effects.idempotent,
            open_world=effects.open_world,
            requires_approval=effects.requires_approval,
            approval_may_edit=effects.approval_may_edit,
            reads=tuple(effects.reads),
            writes=tuple(effects.writes),
        ),
        timeout_s=_seconds(tool.timeout) if tool.HasField("timeout") else None,
        max_concurrency=tool.max_concurrency,
        rate_limit=tool.rate_limit,
        cache_ttl_s=_seconds(tool.cache.ttl),
        cache_scope=CacheScope.TENANT if tenant_wide else CacheScope.CONVERSATION,
    )


def turn_spec(frame: turn_pb2.StartTurn, limits: AgentLimits) -> TurnSpec:
    """A turn to start.

    Raises:
        ServiceError: what is wrong with it.
    """
    if not 1 <= len(frame.turn_id.encode()) <= TURN_ID_BYTES_MAX:
        size = len(frame.turn_id.encode())
        raise _invalid(
            "start_turn.turn_id", f"it has {size} bytes, 1 to {TURN_ID_BYTES_MAX} are needed"
        )
    if not frame.text.strip():
        raise _invalid("start_turn.text", "the user's message is empty")
    _check_text("start_turn.text", frame.text, limits)
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
            raise _invalid(
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
        raise _invalid("invocation_progress.fraction", f"{frame.fraction:g} is not from 0 to 1")
    return frame.fraction


def _generation(frame: turn_pb2.GenerationSettings, limits: AgentLimits) -> GenerationSettings:
    path = "start_turn.generation"
    temperature = frame.temperature if frame.HasField("temperature") else None
    top_p = frame.top_p if frame.HasField("top_p") else None
    top_k = frame.top_k if frame.HasField("top_k") else None
    seed = frame.seed if frame.HasField("seed") else None
    max_tokens = frame.max_tokens if frame.HasField("max_tokens") else None
    if temperature is not None and not 0 <= temperature <= 2:
        raise _invalid(f"{path}.temperature", f"{temperature:g} is not from 0 to 2")
    if top_p is not None and not 0 < top_p <= 1:
        raise _invalid(f"{path}.top_p", f"{top_p:g} is not above 0 and at most 1")
    if top_k is not None and top_k != -1 and top_k < 1:
        raise _invalid(f"{path}.top_k", f"{top_k} is neither -1 (all tokens) nor at least 1")
    if seed is not None and not 0 <= seed <= SEED_MAX:
        raise _invalid(f"{path}.seed", f"{seed} is not from 0 to {SEED_MAX}")
    if max_tokens is not None and not 1 <= max_tokens <= limits.turn.max_tokens:
        raise _invalid(
            f"{path}.max_tokens", f"{max_tokens} is not from 1 to {limits.turn.max_tokens}"
        )
    stop = tuple(frame.stop)
    if len(stop) > STOP_TEXTS_MAX:
        raise _too_large(f"{path}.stop", len(stop), STOP_TEXTS_MAX, "texts")
    for index, text in enumerate(stop):
        if not 1 <= len(text.encode()) <= STOP_BYTES_MAX:
            raise _invalid(
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
        raise _invalid(f"{path}.mode", f"{frame.mode} is not known to this server")
    if (mode is ToolChoiceMode.NAMED) != bool(frame.tool_name):
        raise _invalid(f"{path}.tool_name", "it goes with NAMED, and with NAMED alone")
    return ToolChoice(mode=mode, tool_name=frame.tool_name)


def _turn_limits(frame: turn_pb2.TurnLimits, most: TurnLimits) -> TurnLimits:
    path = "start_turn.limits"
    steps = frame.max_steps if frame.HasField("max_steps") else most.max_steps
    tokens = frame.max_tokens if frame.HasField("max_tokens") else most.max_tokens
    duration_s = most.max_duration_s
    if frame.HasField("max_duration"):
        duration_s = _seconds(frame.max_duration)
    if not 1 <= steps <= most.max_steps:
        raise _invalid(f"{path}.max_steps", f"{steps} is not from 1 to {most.max_steps}")
    if not 1 <= tokens <= most.max_tokens:
        raise _invalid(f"{path}.max_tokens", f"{tokens} is not from 1 to {most.max_tokens}")
    if not 0 < duration_s <= most.max_duration_s:
        raise _invalid(
            f"{path}.max_duration",
            f"{duration_s:g} s is not above 0 and at most {most.max_duration_s:g} s",
        )
    return TurnLimits(max_steps=steps, max_tokens=tokens, max_duration_s=duration_s)


def _history(frame: agent_pb2.OpenConversation, limits: AgentLimits) -> tuple[Message, ...]:
    """Messages in which every call is answered, in order, before anyone else speaks."""
    messages: list[Message] = []
    open_calls: dict[str, str] = {}
    for index, message in enumerate(frame.history):
        path = f"open.history[{index}]"
        _check_text(f"{path}.text", message.text, limits)
        if message.role == agent_pb2.MESSAGE_ROLE_TOOL:
            name = open_calls.pop(message.tool_call_id, None)
            if name is None:
                raise _invalid(
                    f"{path}.tool_call_id",
                    f"{message.tool_call_id[:80]!r} answers no open call before it",
                )
            messages.append(
                ToolMessage(call_id=message.tool_call_id, tool_name=name, text=message.text)
            )
            continue
        _check_answered(path, open_calls)
        if message.role == agent_pb2.MESSAGE_ROLE_USER:
            messages.append(UserMessage(text=message.text))
        elif message.role == agent_pb2.MESSAGE_ROLE_ASSISTANT:
            calls = _history_calls(path, message)
            open_calls = {call.call_id: call.tool_name for call in calls}
            messages.append(
                AssistantMessage(text=message.text, reasoning=message.reasoning, tool_calls=calls)
            )
        else:
            raise _invalid(f"{path}.role", "it is none of USER, ASSISTANT and TOOL")
    _check_answered("open.history", open_calls)
    return tuple(messages)


def _history_calls(path: str, message: agent_pb2.Message) -> tuple[ToolCall, ...]:
    ids: set[str] = set()
    for index, call in enumerate(message.tool_calls):
        where = f"{path}.tool_calls[{index}]"
        if not call.call_id:
            raise _invalid(f"{where}.call_id", "it is empty")
        if call.call_id in ids:
            raise _invalid(f"{where}.call_id", f"{call.call_id[:80]!r} names two calls")
        ids.add(call.call_id)
        _object(f"{where}.arguments_json", call.arguments_json)
    return tuple(
        ToolCall(call_id=call.call_id, tool_name=call.tool_name, arguments_json=call.arguments_json)
        for call in message.tool_calls
    )


def _check_answered(path: str, open_calls: dict[str, str]) -> None:
    if open_calls:
        first = next(iter(open_calls))
        raise _invalid(path, f"the call {first[:80]!r} before it has no tool message")


def _template_variables(text: str) -> JsonObject:
    path = "open.template_variables_json"
    if len(text.encode()) > TEMPLATE_VARIABLES_BYTES_MAX:
        raise _too_large(path, len(text.encode()), TEMPLATE_VARIABLES_BYTES_MAX, "bytes")
    return _object(path, text) if text else {}


def _object(path: str, text: str) -> JsonObject:
    """The JSON object of a text, if it can be written again.

    JSON can spell a number that no double holds and half a surrogate pair; no template takes them.
    """
    try:
        value = parse_object(text)
        dump(value).encode()
    except JsonError as error:
        raise _invalid(path, str(error)) from None
    except (ValueError, RecursionError):
        raise _invalid(
            path, "it has a number or a character that UTF-8 JSON cannot carry"
        ) from None
    return value


def _trace_context(frame: common_pb2.TraceContext) -> TraceContext:
    return TraceContext(traceparent=frame.traceparent, tracestate=frame.tracestate)


def _check_text(path: str, text: str, limits: AgentLimits) -> None:
    size = len(text.encode())
    if size > limits.text_bytes_max:
        raise _too_large(path, size, limits.text_bytes_max, "bytes")


def _seconds(value: Duration) -> float:
    return value.seconds + value.nanos / 1e9


def _invalid(field: str, problem: str) -> ServiceError:
    return ServiceError(Reason.FIELD_INVALID, f"{field}: {problem}", field=field)


def _too_large(field: str, size: int, limit: int, unit: str) -> ServiceError:
    return ServiceError(
        Reason.TOO_LARGE,
        f"{field}: it has {size} {unit}, the limit is {limit}: send less",
        field=field,
        metadata={"size": str(size), "limit": str(limit)},
    )
