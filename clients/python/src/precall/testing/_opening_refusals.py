"""Refuses handshakes as a precall server does."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from precall.testing._fields import (
    check_count,
    check_text,
    content_text,
    invalid,
    json_object,
    not_served,
)
from precall.testing._service.domain.json import JsonObject
from precall.v1 import agent_pb2, prediction_pb2

TEMPLATE_VARIABLES_BYTES_MAX = 16 << 10
HISTORY_CALLS_MAX = 128

_TENANT = re.compile(r"[A-Za-z0-9._-]{1,64}")
_RESERVED = frozenset(
    (
        "add_generation_prompt", "chat_template", "continue_final_message", "conversation",
        "cycler", "dict", "joiner", "lipsum", "max_length", "messages", "model_config", "namespace",
        "padding", "raise_exception", "range", "return_assistant_tokens_mask", "return_dict",
        "return_tensors", "self", "strftime_now", "tokenize", "tokenizer", "tokenizer_kwargs",
        "tools", "truncation",
    )
)  # fmt: skip


def check_tenant(metadata: Iterable[tuple[str, str | bytes]]) -> None:
    """Raises RefusedError if the metadata of a call name no valid tenant, or several."""
    field = "metadata.precall-tenant"
    names = [value for name, value in metadata if name == "precall-tenant"]
    if len(names) > 1:
        raise invalid(field, f"it must be sent once, not {len(names)} times")
    for name in names:
        if not isinstance(name, str) or not _TENANT.fullmatch(name):
            raise invalid(field, f"{name[:80]!r} is not 1 to 64 characters from A-Z a-z 0-9 . _ -")


def check_opening(
    frame: agent_pb2.OpenConversation, model: str, limits: agent_pb2.ServerLimits
) -> None:
    """Raises RefusedError if no server with this model and these limits takes the handshake."""
    if frame.model not in {"", model}:
        raise invalid("open.model", f"{frame.model[:200]!r} is not the model, {model!r}")
    if frame.shared_tools.all or frame.shared_tools.names:
        raise not_served("open.shared_tools")
    check_text("open.system_prompt", frame.system_prompt, limits.text_bytes_max)
    check_count("open.history", len(frame.history), limits.messages_max, "messages")
    _check_history(frame.history, limits)
    _check_variables(frame.template_variables_json)
    check_count("open.tools", len(frame.tools), limits.tools_max, "tools")
    asked = frame.speculation
    if asked.mode not in prediction_pb2.SpeculationMode.values():
        raise invalid("open.speculation.mode", f"{asked.mode} is not a mode of this server")
    if prediction_pb2.PREDICTOR_UNSPECIFIED in asked.predictors:
        raise invalid("open.speculation.predictors", "it must not contain UNSPECIFIED")


def _check_history(history: Sequence[agent_pb2.Message], limits: agent_pb2.ServerLimits) -> None:
    """Raises an error unless tool messages answer every call before the next message."""
    unanswered: list[str] = []
    for index, message in enumerate(history):
        path = f"open.history[{index}]"
        text = content_text(f"{path}.content", message.content)
        check_text(f"{path}.content", text, limits.text_bytes_max)
        if message.role == agent_pb2.MESSAGE_ROLE_TOOL:
            if message.tool_call_id not in unanswered:
                problem = f"there is no open call {message.tool_call_id[:80]!r} before this message"
                raise invalid(f"{path}.tool_call_id", problem)
            unanswered.remove(message.tool_call_id)
            continue
        _check_answered(path, unanswered)
        if message.role == agent_pb2.MESSAGE_ROLE_ASSISTANT:
            unanswered = _calls(path, message, limits.arguments_bytes_max)
        elif message.role != agent_pb2.MESSAGE_ROLE_USER:
            raise invalid(f"{path}.role", "it must be USER, ASSISTANT or TOOL")
    _check_answered("open.history", unanswered)


def _check_answered(path: str, unanswered: Sequence[str]) -> None:
    if unanswered:
        raise invalid(path, f"the call {unanswered[0][:80]!r} is not yet answered by a message")


def _calls(path: str, message: agent_pb2.Message, arguments_bytes_max: int) -> list[str]:
    check_count(f"{path}.tool_calls", len(message.tool_calls), HISTORY_CALLS_MAX, "calls")
    ids: list[str] = []
    for index, call in enumerate(message.tool_calls):
        where = f"{path}.tool_calls[{index}]"
        if not call.call_id:
            raise invalid(f"{where}.call_id", "it must not be empty")
        if call.call_id in ids:
            raise invalid(f"{where}.call_id", f"two calls have the id {call.call_id[:80]!r}")
        ids.append(call.call_id)
        check_text(f"{where}.arguments_json", call.arguments_json, arguments_bytes_max)
        try:
            json_object(call.arguments_json)
        except ValueError as error:
            raise invalid(f"{where}.arguments_json", str(error)) from None
    return ids


def _check_variables(text: str) -> None:
    path = "open.template_variables_json"
    check_text(path, text, TEMPLATE_VARIABLES_BYTES_MAX)
    try:
        variables: JsonObject = json_object(text) if text else {}
    except ValueError as error:
        raise invalid(path, str(error)) from None
    if reserved := sorted(variables.keys() & _RESERVED):
        raise invalid(path, f"{reserved[0]!r} cannot be a template variable: leave it out")
    documents = variables.get("documents")
    if documents is None:
        return
    if not isinstance(documents, list) or not all(isinstance(each, dict) for each in documents):
        raise invalid(path, "the variable 'documents' must be a list of objects")
