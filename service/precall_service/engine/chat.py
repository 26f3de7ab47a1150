"""Converts messages and tools to the shapes of the OpenAI interface.

Never: templates, tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from precall_service.domain.json import JsonValue
from precall_service.domain.messages import (
    AssistantMessage,
    Message,
    ToolCall,
    ToolMessage,
    Transcript,
    UserMessage,
)
from precall_service.domain.subschemas import BY_NAME, LIST, ONE
from precall_service.domain.tools import ToolDeclaration
from precall_service.domain.turn import ToolChoice, ToolChoiceMode

ChatMessage: TypeAlias = dict[str, Any]
ChatTool: TypeAlias = dict[str, Any]


def chat_messages(transcript: Transcript) -> list[ChatMessage]:
    """Converts all messages of a transcript; the system prompt comes first."""
    system = [system_message(transcript.system_prompt)] if transcript.system_prompt else []
    written_ids = {
        call.call_id: call.written_id
        for message in transcript.messages
        if isinstance(message, AssistantMessage)
        for call in message.tool_calls
        if call.written_id
    }
    return system + [chat_message(message, written_ids) for message in transcript.messages]


def system_message(text: str) -> ChatMessage:
    """Converts a system prompt."""
    return {"role": "system", "content": text}


def chat_message(message: Message, written_ids: Mapping[str, str]) -> ChatMessage:
    """Converts one message. Calls with an id that the model wrote are known by that."""
    match message:
        case UserMessage():
            return {"role": "user", "content": message.text}
        case ToolMessage():
            return {
                "role": "tool",
                "tool_call_id": written_ids.get(message.call_id, message.call_id),
                "name": message.tool_name,
                "content": message.text,
            }
        case AssistantMessage():
            return _assistant_message(message)


def _assistant_message(message: AssistantMessage) -> ChatMessage:
    chat: ChatMessage = {"role": "assistant", "content": message.text}
    if message.reasoning:
        chat["reasoning"] = message.reasoning
    if message.tool_calls:
        chat["tool_calls"] = [_chat_call(call) for call in message.tool_calls]
    return chat


def _chat_call(call: ToolCall) -> dict[str, Any]:
    function = {"name": call.tool_name, "arguments": call.arguments_json}
    return {"id": call.written_id or call.call_id, "type": "function", "function": function}


def chat_tools(tools: Sequence[ToolDeclaration]) -> list[ChatTool]:
    """Converts tool declarations, for a template."""
    return [chat_tool(tool.name, tool.description, _shown(tool.input_schema)) for tool in tools]


def _shown(schema: JsonValue) -> JsonValue:
    """The same schema, in which a type that may be null is one type and `nullable`.

    Many templates expect one type; those of Hermes 2 and 3 never end with "null" among several.
    """
    if not isinstance(schema, Mapping):
        return schema
    shown = {keyword: _shown_part(keyword, part) for keyword, part in schema.items()}
    types = schema.get("type")
    if isinstance(types, Sequence) and not isinstance(types, str) and "null" in types:
        others = [each for each in types if each != "null"]
        if others:
            shown |= {"type": others[0] if len(others) == 1 else others, "nullable": True}
    return shown


def _shown_part(keyword: str, part: JsonValue) -> JsonValue:
    if keyword in ONE:
        return _shown(part)
    if keyword in LIST and isinstance(part, list):
        return [_shown(each) for each in part]
    if keyword in BY_NAME and isinstance(part, Mapping):
        return {name: _shown(each) for name, each in part.items()}
    return part


def chat_tool(name: str, description: str, parameters: JsonValue) -> ChatTool:
    """Returns a tool whose arguments have this schema."""
    function = {"name": name, "description": description, "parameters": parameters}
    return {"type": "function", "function": function}


def chat_tool_choice(choice: ToolChoice) -> str | dict[str, Any]:
    """Converts a tool choice."""
    if choice.mode is ToolChoiceMode.NAMED:
        return {"type": "function", "function": {"name": choice.tool_name}}
    return choice.mode.value
