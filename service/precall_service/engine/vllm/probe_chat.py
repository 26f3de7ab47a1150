"""The conversation by which a model's template and parsers are proved when the engine starts.

All of its texts are those of a probe and differ from each other. None of them reaches the model.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from precall_service.domain.json import JsonObject, dump
from precall_service.domain.messages import (
    AssistantMessage,
    Message,
    ToolCall,
    ToolMessage,
    Transcript,
    UserMessage,
)
from precall_service.domain.tools import ToolDeclaration
from precall_service.engine.vllm.probes import CALL_ID, EARLIER_CALL_ID, TOOL, probe_text

_TEXT: Final[JsonObject] = {"type": "string"}
_NUMBER: Final[JsonObject] = {"type": "number"}
_SCHEMA: Final[JsonObject] = {
    "type": "object",
    "properties": {
        "place": {
            "type": "object",
            "properties": {
                "name": _TEXT,
                "tags": {"type": "array", "items": _TEXT},
                "at": {"type": "object", "properties": {"north": _NUMBER, "east": _NUMBER}},
            },
        },
        "note": _TEXT,
        "count": {"type": "integer"},
        "share": _NUMBER,
        "exact": {"type": "boolean"},
    },
    "required": ["note"],
}

LOOKUP: Final = replace(TOOL, name="probe_lookup", digest="probe lookup", input_schema=_SCHEMA)
"""A tool whose arguments are as tools usually have them; `TOOL` has none."""

CONSTANT: Final = replace(
    TOOL,
    name="probe_constant",
    digest="probe constant",
    input_schema={
        "type": "object",
        "properties": {"value": {"type": "string", "const": "probe value"}},
        "required": ["value"],
        "additionalProperties": False,
    },
)
"""A tool that can be called in one way only."""

FLAT: Final[JsonObject] = {
    "note": 'Montréal, 東京\nsecond "line"',
    "count": -7,
    "share": -0.25,
    "exact": True,
}
NESTED: Final[JsonObject] = {
    "note": "another note",
    "place": {
        "name": "Saint-Étienne",
        "tags": ["old town", "café"],
        "at": {"north": 45.5, "east": 4},
    },
}
OTHER: Final[JsonObject] = {"note": "a third note", "count": 3}

SYSTEM: Final = probe_text("system")
QUESTION: Final = probe_text("question")
NEXT_QUESTION: Final = probe_text("next question")
SAID: Final = probe_text("said")

TOOLS: Final = (LOOKUP, TOOL)


def asked(*tools: ToolDeclaration, system: bool = False) -> Transcript:
    """A conversation with one question."""
    return Transcript(
        messages=(UserMessage(text=QUESTION),),
        system_prompt=SYSTEM if system else "",
        tools=tools,
    )


def said(*calls: ToolCall, text: str = "", reasoning: str = "") -> AssistantMessage:
    """A message of the model."""
    return AssistantMessage(text=text, reasoning=reasoning, tool_calls=calls)


def lookup(arguments: JsonObject = FLAT, *, call_id: str = CALL_ID) -> ToolCall:
    """A call of LOOKUP."""
    return ToolCall(call_id=call_id, tool_name=LOOKUP.name, arguments_json=dump(arguments))


def empty_call() -> ToolCall:
    """A call of TOOL, which takes no arguments."""
    return ToolCall(call_id=CALL_ID, tool_name=TOOL.name, arguments_json="{}")


def constant_call() -> ToolCall:
    """The one call of CONSTANT that there can be."""
    arguments = dump({"value": "probe value"})
    return ToolCall(call_id=CALL_ID, tool_name=CONSTANT.name, arguments_json=arguments)


def two_calls() -> tuple[ToolCall, ToolCall]:
    """Two calls for one message."""
    return lookup(OTHER, call_id=EARLIER_CALL_ID), lookup()


def with_written_ids(message: AssistantMessage) -> AssistantMessage:
    """The same calls with ids that name their tools, as Kimi K2 writes them."""
    calls = tuple(
        replace(call, written_id=f"functions.{call.tool_name}:{number}")
        for number, call in enumerate(message.tool_calls)
    )
    return replace(message, tool_calls=calls)


def result(call: ToolCall) -> ToolMessage:
    """The answer to a call."""
    return ToolMessage(
        call_id=call.call_id, tool_name=call.tool_name, text=result_text(call.call_id)
    )


def result_text(call_id: str) -> str:
    """What the answer to a call says."""
    return probe_text(f"result {call_id}")


def round_of(*calls: ToolCall) -> list[Message]:
    """A message with these calls, and their answers."""
    return [said(*calls), *map(result, calls)]
