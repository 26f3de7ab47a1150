"""Turns values of this client into messages of the contract, and answers back into values.

Owns: every use of a field of the contract, except the fields of the stream itself.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Mapping, Sequence
from typing import TypeVar

import pydantic
import pydantic_core
from google.protobuf.descriptor import EnumDescriptor
from google.protobuf.duration_pb2 import Duration

from precall._messages import Message
from precall._server import (
    Capability,
    EngineLoad,
    EngineState,
    ServerInfo,
    ServerLimits,
    TurnLimits,
)
from precall._tool import Tool
from precall._turn_options import TURN_ARGUMENTS, TurnOptions, tool_name
from precall.v1 import agent_pb2, content_pb2, generation_pb2, tool_pb2, turn_pb2

E = TypeVar("E", bound=enum.Enum)


_TOOL_CHOICES = {
    "auto": generation_pb2.TOOL_CHOICE_MODE_AUTO,
    "none": generation_pb2.TOOL_CHOICE_MODE_NONE,
    "required": generation_pb2.TOOL_CHOICE_MODE_REQUIRED,
}
_ROLES = {
    "user": agent_pb2.MESSAGE_ROLE_USER,
    "assistant": agent_pb2.MESSAGE_ROLE_ASSISTANT,
    "tool": agent_pb2.MESSAGE_ROLE_TOOL,
}
_CACHE_SCOPES = {
    "conversation": tool_pb2.CACHE_SCOPE_CONVERSATION,
    "tenant": tool_pb2.CACHE_SCOPE_TENANT,
}


def duration(seconds: float) -> Duration:
    """Returns seconds as a duration of the contract."""
    value = Duration()
    value.FromNanoseconds(round(seconds * 1e9))
    return value


def seconds(value: Duration) -> float:
    """Returns a duration of the contract in seconds."""
    return value.seconds + value.nanos / 1e9


def content(text: str) -> list[content_pb2.ContentPart]:
    """Returns a text as content of the contract; none for an empty one."""
    return [content_pb2.ContentPart(text=text)] if text else []


def start_turn(
    text: str, turn_id: str, options: TurnOptions, offered: Collection[Tool]
) -> turn_pb2.StartTurn:
    """Returns the frame that starts a turn.

    Args:
        text: The user's message.
        turn_id: The turn's id.
        options: The options of the turn.
        offered: The tools of the conversation, among which `tool_choice` may name a function.

    Raises:
        TypeError: There is no such option, or the text or an option has the wrong type.
        ValueError: An option has a value that is not allowed.
    """
    options = TURN_ARGUMENTS.validate({"text": text, **options}, "turn")
    generation = generation_pb2.GenerationSettings(
        temperature=options.get("temperature"),
        top_p=options.get("top_p"),
        top_k=options.get("top_k"),
        seed=options.get("seed"),
        presence_penalty=options.get("presence_penalty"),
        frequency_penalty=options.get("frequency_penalty"),
        max_step_tokens=options.get("max_step_tokens"),
        stop=options.get("stop"),
    )
    choice = options.get("tool_choice")
    if isinstance(choice, str):
        generation.tool_choice.mode = _TOOL_CHOICES[choice]
    elif choice is not None:
        generation.tool_choice.mode = generation_pb2.TOOL_CHOICE_MODE_NAMED
        generation.tool_choice.tool_name = tool_name(choice, offered)
    limits = turn_pb2.TurnLimits(
        max_steps=options.get("max_steps"), max_turn_tokens=options.get("max_turn_tokens")
    )
    if (timeout_s := options.get("timeout_s")) is not None:
        limits.max_duration.CopyFrom(duration(timeout_s))
    return turn_pb2.StartTurn(
        turn_id=turn_id, content=content(text), generation=generation, limits=limits
    )


def tool(declared: Tool) -> tool_pb2.Tool:
    """Returns a tool's declaration."""
    options = declared.options
    message = tool_pb2.Tool(
        name=declared.name,
        version=options.get("version", ""),
        description=declared.description,
        input_schema_json=pydantic_core.to_json(declared.input_schema).decode(),
        effects=tool_pb2.ToolEffects(
            read_only=options.get("read_only", False),
            speculation_safe=options.get("speculation_safe", False),
            idempotent=options.get("idempotent", False),
            open_world=options.get("open_world", False),
            requires_approval=options.get("requires_approval", False),
            approval_may_edit=options.get("approval_may_edit", False),
            reads=options.get("reads", ()),
            writes=options.get("writes", ()),
        ),
        max_concurrency=options.get("max_concurrency", 0),
        rate_limit=options.get("rate_limit", 0),
    )
    if ttl_s := options.get("cache_ttl_s"):
        message.cache.ttl.CopyFrom(duration(ttl_s))
        message.cache.scope = _CACHE_SCOPES[options.get("cache_scope", "conversation")]
    if (timeout_s := options.get("timeout_s")) is not None:
        message.timeout.CopyFrom(duration(timeout_s))
    if (interval_s := options.get("rate_interval_s")) is not None:
        message.rate_interval.CopyFrom(duration(interval_s))
    return message


def message(given: Message) -> agent_pb2.Message:
    """Returns one message of a history.

    Raises:
        ValueError: It is not a Message, or its role cannot occur in a history.
    """
    if not isinstance(given, Message):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ValueError(
            f"a history is a list of precall.Message, not of {type(given).__name__}; "
            'write Message("user", "Hello.")'
        )
    if given.role not in _ROLES:
        hint = (
            "; instructions go into system_prompt" if given.role in {"system", "developer"} else ""
        )
        raise ValueError(
            f"a message of a history is by user, assistant or tool, not {given.role!r}{hint}"
        )
    return agent_pb2.Message(
        role=_ROLES[given.role],
        content=content(given.text),
        tool_calls=[
            agent_pb2.ToolCall(
                call_id=call.call_id, tool_name=call.tool_name, arguments_json=call.arguments_json
            )
            for call in given.tool_calls
        ],
        tool_call_id=given.tool_call_id,
        reasoning=given.reasoning,
    )


def variables_json(variables: Mapping[str, pydantic.JsonValue] | None) -> str:
    """Returns template variables as JSON; an empty string if there are none."""
    return pydantic_core.to_json(variables).decode() if variables else ""


def limits(granted: agent_pb2.ServerLimits) -> ServerLimits:
    """Returns the limits of a server."""
    turn = granted.turn_limits_max
    return ServerLimits(
        frame_bytes_max=granted.frame_bytes_max,
        text_bytes_max=granted.text_bytes_max,
        tools_max=granted.tools_max,
        schema_bytes_max=granted.schema_bytes_max,
        description_bytes_max=granted.description_bytes_max,
        result_bytes_max=granted.result_bytes_max,
        context_tokens_max=granted.context_tokens_max,
        messages_max=granted.messages_max,
        turn_limits_max=TurnLimits(
            max_steps=turn.max_steps if turn.HasField("max_steps") else None,
            max_turn_tokens=turn.max_turn_tokens if turn.HasField("max_turn_tokens") else None,
            max_duration_s=seconds(turn.max_duration) if turn.HasField("max_duration") else None,
        ),
        tool_timeout_max_s=seconds(granted.tool_timeout_max),
        arguments_bytes_max=granted.arguments_bytes_max,
    )


def capabilities(
    listed: Sequence[agent_pb2.Capability.ValueType],
) -> frozenset[Capability]:
    """Returns the capabilities of a server, without those that this client does not know."""
    known = {member(Capability, agent_pb2.Capability.DESCRIPTOR, value) for value in listed}
    return frozenset(known - {Capability.UNKNOWN})


def server_info(answer: agent_pb2.GetServerInfoResponse) -> ServerInfo:
    """Returns a server's description of itself."""
    return ServerInfo(
        version=answer.version,
        model=answer.model,
        capabilities=capabilities(answer.capabilities),
        limits=limits(answer.limits),
        engine_state=member(EngineState, agent_pb2.EngineState.DESCRIPTOR, answer.engine_state),
        engine=answer.engine,
        load=_load(answer.load) if answer.HasField("load") else None,
        uptime_s=seconds(answer.uptime),
    )


def _load(load: agent_pb2.EngineLoad) -> EngineLoad:
    return EngineLoad(
        running_sequences=load.running_sequences,
        waiting_sequences=load.waiting_sequences,
        kv_cache_usage=load.kv_cache_usage,
        admitted_turns=load.admitted_turns,
        waiting_turns=load.waiting_turns,
        turns_max=load.turns_max,
    )


def member(kind: type[E], wire: EnumDescriptor, number: int) -> E:
    """Returns our member for a number of the contract's enum; UNKNOWN if there is none."""
    value = wire.values_by_number.get(number)
    prefix = wire.values_by_number[0].name.removesuffix("UNSPECIFIED")
    name = "UNKNOWN" if value is None else value.name.removeprefix(prefix)
    return kind.__members__.get(name, kind["UNKNOWN"])
