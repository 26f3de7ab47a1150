"""Builders for what an engine is asked, and readers of what it says."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace
from types import MappingProxyType

from precall_service.domain.json import JsonObject, parse_object
from precall_service.domain.messages import (
    AssistantMessage,
    Message,
    ToolCall,
    Transcript,
    UserMessage,
)
from precall_service.domain.tools import ToolDeclaration, ToolEffects
from precall_service.domain.turn import GenerationSettings, ToolChoice, ToolChoiceMode
from precall_service.engine.base import (
    CallBegun,
    CallPiece,
    CallWritten,
    Delta,
    Engine,
    Priority,
    ReasoningPiece,
    StepEnd,
    StepSpec,
    TextPiece,
)

_numbers = itertools.count()

CITY = """{
  "type": "object",
  "properties": {"city": {"type": "string"}},
  "required": ["city"],
  "additionalProperties": false
}"""

GREEDY = GenerationSettings(temperature=0.0)
REQUIRED = ToolChoice(mode=ToolChoiceMode.REQUIRED)
NONE = ToolChoice(mode=ToolChoiceMode.NONE)


def named(tool_name: str) -> ToolChoice:
    """The choice of one tool."""
    return ToolChoice(mode=ToolChoiceMode.NAMED, tool_name=tool_name)


def declared(name: str, description: str = "", schema: str = CITY) -> ToolDeclaration:
    """A tool that only its name, description and schema matter of."""
    return ToolDeclaration(
        name=name,
        version="1",
        digest=name,
        description=description or f"The {name.removeprefix('get_')} in a city.",
        input_schema=parse_object(schema),
        output_schema=None,
        effects=ToolEffects(),
        timeout_s=10.0,
        max_concurrency=4,
    )


def asked(text: str, *tools: ToolDeclaration, system_prompt: str = "") -> Transcript:
    """A conversation of one question."""
    return Transcript(messages=(UserMessage(text=text),), system_prompt=system_prompt, tools=tools)


def after(transcript: Transcript, *messages: Message) -> Transcript:
    """The conversation with these messages after it."""
    return replace(transcript, messages=(*transcript.messages, *messages))


def step_spec(
    *,
    max_tokens: int = 64,
    tools: tuple[ToolDeclaration, ...] = (),
    tool_choice: ToolChoice | None = None,
    generation: GenerationSettings = GREEDY,
    priority: Priority = Priority.STARTS_TURN,
    tenant: str = "default",
    template_variables: JsonObject = MappingProxyType({}),
) -> StepSpec:
    """A step of its own id."""
    return StepSpec(
        step_id=f"step-{next(_numbers)}",
        max_tokens=max_tokens,
        generation=generation,
        tools=tools,
        tool_choice=tool_choice or ToolChoice(),
        priority=priority,
        tenant=tenant,
        template_variables=template_variables,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """A whole generation."""

    deltas: tuple[Delta, ...]
    end: StepEnd
    text: str
    reasoning: str
    calls: tuple[ToolCall, ...]
    """The calls that were written to their end."""

    @property
    def arguments(self) -> list[JsonObject]:
        """The calls' arguments."""
        return [parse_object(call.arguments_json) for call in self.calls]

    @property
    def message(self) -> AssistantMessage:
        """The generation as a message."""
        return AssistantMessage(text=self.text, reasoning=self.reasoning, tool_calls=self.calls)


async def heard(generation: AsyncGenerator[Delta, None]) -> Said:
    """Reads a generation to its end, and checks what holds of each."""
    async with aclosing(generation) as reading:
        deltas = [delta async for delta in reading]
    ends = [delta for delta in deltas if isinstance(delta, StepEnd)]
    assert len(ends) == 1
    assert deltas[-1] is ends[0], "nothing follows the end"
    return Said(
        deltas=tuple(deltas),
        end=ends[0],
        text="".join(delta.text for delta in deltas if isinstance(delta, TextPiece)),
        reasoning="".join(delta.text for delta in deltas if isinstance(delta, ReasoningPiece)),
        calls=_calls(deltas),
    )


def _calls(deltas: list[Delta]) -> tuple[ToolCall, ...]:
    names: dict[int, str] = {}
    pieces: dict[int, list[str]] = {}
    written: list[int] = []
    for delta in deltas:
        match delta:
            case CallBegun(index, tool_name):
                assert index == len(names), "calls are numbered in their order"
                names[index], pieces[index] = tool_name, []
            case CallPiece(index, fragment):
                assert index not in written, "nothing is added to a call that is written"
                pieces[index].append(fragment)
            case CallWritten(index):
                assert index not in written, "a call is written once"
                written.append(index)
            case _:
                continue
    return tuple(
        ToolCall(
            call_id=f"call{index:05}",
            tool_name=names[index],
            arguments_json="".join(pieces[index]),
        )
        for index in sorted(written)
    )


async def until_idle(engine: Engine) -> None:
    """Returns once the engine itself says that nothing runs or waits in it."""
    async with asyncio.timeout(30):
        while True:
            load = await engine.load()
            if load.running == load.waiting == 0:
                return
            await asyncio.sleep(0)
