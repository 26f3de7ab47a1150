"""Converts messages and tools to the OpenAI shapes that vLLM's renderers and parsers take.

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
from precall_service.domain.tools import ToolDeclaration

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
    return [chat_tool(tool.name, tool.description, tool.input_schema) for tool in tools]


def chat_tool(name: str, description: str, parameters: JsonValue) -> ChatTool:
    """Returns a tool whose arguments have this schema."""
    function = {"name": name, "description": description, "parameters": parameters}
    return {"type": "function", "function": function}
