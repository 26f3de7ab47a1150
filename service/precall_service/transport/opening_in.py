"""Turns a client's handshake and tools into values; checks each field's range."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from precall.v1 import agent_pb2, tool_pb2
from precall_service.agent.limits import AgentLimits
from precall_service.domain.json import JsonObject, JsonValue
from precall_service.domain.messages import (
    AssistantMessage,
    Message,
    ToolCall,
    ToolMessage,
    Transcript,
    UserMessage,
    refusal_of,
)
from precall_service.domain.speculation import SpeculationRequest
from precall_service.domain.tools import CacheScope, ToolEffects
from precall_service.tools.declarations import ToolProposal
from precall_service.tools.text import shorten
from precall_service.transport.content_in import content_text
from precall_service.transport.fields import (
    check_count,
    check_text,
    invalid,
    json_object,
    seconds,
)
from precall_service.transport.speculation import speculation_request
from precall_service.transport.statuses import not_served

NAME_CHARS_MAX = 80
"""Longer than a valid tool name."""
TEMPLATE_VARIABLES_BYTES_MAX = 16 << 10
HISTORY_CALLS_MAX = 128
"""The limit of calls in one message of a history."""

_TENANT_KEY = "precall-tenant"
_TENANT = re.compile(r"[A-Za-z0-9._-]{1,64}")


def tenant(metadata: Iterable[tuple[str, str | bytes]]) -> str:
    """Returns the tenant that the RPC's metadata names; "default" if it names none.

    Raises:
        ServiceError: FIELD_INVALID if the name is invalid, or if there are several, as when a
            gateway adds one to the client's.
    """
    names = [value for key, value in metadata if key == _TENANT_KEY] or ["default"]
    if len(names) > 1:
        raise invalid(f"metadata.{_TENANT_KEY}", f"it must be sent once, not {len(names)} times")
    name = names[0]
    if not isinstance(name, str) or not _TENANT.fullmatch(name):
        raise invalid(
            f"metadata.{_TENANT_KEY}",
            f"{name[:80]!r} is not 1 to 64 characters from A-Z a-z 0-9 . _ -",
        )
    return name


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """A handshake that has passed the checks."""

    transcript: Transcript
    proposals: tuple[ToolProposal, ...]
    speculation: SpeculationRequest
    client_name: str
    agent_name: str


def opening(
    frame: agent_pb2.OpenConversation,
    model: str,
    limits: AgentLimits,
    *,
    arguments_bytes_max: int,
    tools_max: int,
) -> Opening:
    """Returns a checked handshake. It may be called in a thread: a history can be large.

    Raises:
        ServiceError: FIELD_INVALID, TOO_LARGE or NOT_SERVED, naming the field.
    """
    if frame.model not in {"", model}:
        raise invalid(
            "open.model",
            f"{frame.model[:200]!r} is not the model of this server, {model!r}: leave the field "
            "empty, or connect to a server that has the model",
        )
    if frame.shared_tools.all or frame.shared_tools.names:
        raise not_served("open.shared_tools", "CAPABILITY_TOOL_HOSTS")
    check_text("open.system_prompt", frame.system_prompt, limits.text_bytes_max)
    check_count("open.history", len(frame.history), limits.messages_max, "messages")
    return Opening(
        transcript=Transcript(
            messages=_history(frame, limits, arguments_bytes_max),
            system_prompt=frame.system_prompt,
            template_variables=_template_variables(frame.template_variables_json),
        ),
        proposals=proposals("open.tools", frame.tools, tools_max=tools_max),
        speculation=speculation_request(frame.speculation),
        client_name=frame.client_name[:128],
        agent_name=frame.agent_name[:128],
    )


def proposals(
    path: str, tools: Sequence[tool_pb2.Tool], *, tools_max: int
) -> tuple[ToolProposal, ...]:
    """Returns proposed tools. Checks only their number: the tools package checks declarations.

    Raises:
        ServiceError: TOO_LARGE if there are more than `tools_max`.
    """
    check_count(path, len(tools), tools_max, "tools")
    return tuple(map(_proposal, tools))


def tool_names(path: str, names: Sequence[str], *, tools_max: int) -> tuple[str, ...]:
    """Returns names of tools, which need not exist. Shortens long ones, since answers repeat them.

    Raises:
        ServiceError: TOO_LARGE if there are more than `tools_max`.
    """
    check_count(path, len(names), tools_max, "names")
    return tuple(shorten(name, NAME_CHARS_MAX) for name in names)


def _proposal(tool: tool_pb2.Tool) -> ToolProposal:
    effects = tool.effects
    tenant_wide = tool.cache.scope == tool_pb2.CACHE_SCOPE_TENANT
    return ToolProposal(
        # A longer name will be refused, but errors and answers repeat it.
        name=shorten(tool.name, NAME_CHARS_MAX),
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
        timeout_s=seconds(tool.timeout) if tool.HasField("timeout") else None,
        max_concurrency=tool.max_concurrency,
        rate_limit=tool.rate_limit,
        cache_ttl_s=seconds(tool.cache.ttl),
        cache_scope=CacheScope.TENANT if tenant_wide else CacheScope.CONVERSATION,
    )


def _history(
    frame: agent_pb2.OpenConversation, limits: AgentLimits, arguments_bytes_max: int
) -> tuple[Message, ...]:
    """Returns the messages; tool messages must answer every call before the next message."""
    messages: list[Message] = []
    open_calls: dict[str, str] = {}
    for index, message in enumerate(frame.history):
        path = f"open.history[{index}]"
        text = content_text(f"{path}.content", message.content)
        check_text(f"{path}.content", text, limits.text_bytes_max)
        if message.role == agent_pb2.MESSAGE_ROLE_TOOL:
            name = open_calls.pop(message.tool_call_id, None)
            if name is None:
                raise invalid(
                    f"{path}.tool_call_id",
                    f"there is no open call {message.tool_call_id[:80]!r} before this message",
                )
            messages.append(ToolMessage(call_id=message.tool_call_id, tool_name=name, text=text))
            continue
        _check_answered(path, open_calls)
        if message.role == agent_pb2.MESSAGE_ROLE_USER:
            messages.append(UserMessage(text=text))
        elif message.role == agent_pb2.MESSAGE_ROLE_ASSISTANT:
            calls = _history_calls(path, message, arguments_bytes_max)
            open_calls = {call.call_id: call.tool_name for call in calls}
            messages.append(
                AssistantMessage(text=text, reasoning=message.reasoning, tool_calls=calls)
            )
        else:
            raise invalid(f"{path}.role", "it must be USER, ASSISTANT or TOOL")
    _check_answered("open.history", open_calls)
    return tuple(messages)


def _history_calls(
    path: str, message: agent_pb2.Message, arguments_bytes_max: int
) -> tuple[ToolCall, ...]:
    check_count(f"{path}.tool_calls", len(message.tool_calls), HISTORY_CALLS_MAX, "calls")
    ids: set[str] = set()
    for index, call in enumerate(message.tool_calls):
        where = f"{path}.tool_calls[{index}]"
        if not call.call_id:
            raise invalid(f"{where}.call_id", "it must not be empty")
        if call.call_id in ids:
            raise invalid(f"{where}.call_id", f"two calls have the id {call.call_id[:80]!r}")
        ids.add(call.call_id)
        check_text(f"{where}.arguments_json", call.arguments_json, arguments_bytes_max)
        json_object(f"{where}.arguments_json", call.arguments_json)
    return tuple(
        ToolCall(call_id=call.call_id, tool_name=call.tool_name, arguments_json=call.arguments_json)
        for call in message.tool_calls
    )


def _check_answered(path: str, open_calls: dict[str, str]) -> None:
    if open_calls:
        first = next(iter(open_calls))
        raise invalid(path, f"the call {first[:80]!r} is not yet answered by a tool message")


def _template_variables(text: str) -> JsonObject:
    path = "open.template_variables_json"
    check_text(path, text, TEMPLATE_VARIABLES_BYTES_MAX)
    variables: JsonObject = json_object(path, text) if text else {}
    if refusal := refusal_of(variables):
        raise invalid(path, refusal)
    documents = variables.get("documents")
    if documents is not None and not _are_objects(documents):
        raise invalid(
            path,
            "the variable 'documents' must be a list of objects, each with the strings 'title' "
            "and 'text'",
        )
    return variables


def _are_objects(value: JsonValue) -> bool:
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)
