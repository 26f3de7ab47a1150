"""Builders for the input of an engine, and readers of its output."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
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
    Chunk,
    Engine,
    Piece,
    Priority,
    ReasoningPiece,
    StepEnd,
    StepSpec,
    StepStream,
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
    """The tool choice that names one tool."""
    return ToolChoice(mode=ToolChoiceMode.NAMED, tool_name=tool_name)


def declared(name: str, schema: str = CITY) -> ToolDeclaration:
    """A tool for tests that depend only on its name and schema."""
    return ToolDeclaration(
        name=name,
        version="1",
        digest=name,
        description=f"The {name.removeprefix('get_')} in a city.",
        input_schema=parse_object(schema),
        output_schema=None,
        effects=ToolEffects(),
        timeout_s=10.0,
        max_concurrency=4,
    )


def asked(text: str, *tools: ToolDeclaration, system_prompt: str = "") -> Transcript:
    """A transcript with one question."""
    return Transcript(messages=(UserMessage(text=text),), system_prompt=system_prompt, tools=tools)


def after(transcript: Transcript, *messages: Message) -> Transcript:
    """The transcript followed by these messages."""
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
    log_probabilities: bool = False,
) -> StepSpec:
    """A step with a new id."""
    return StepSpec(
        step_id=f"step-{next(_numbers)}",
        max_tokens=max_tokens,
        generation=generation,
        tools=tools,
        tool_choice=tool_choice or ToolChoice(),
        priority=priority,
        tenant=tenant,
        template_variables=template_variables,
        log_probabilities=log_probabilities,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """The content of a whole generation."""

    chunks: tuple[Chunk, ...]
    pieces: tuple[Piece, ...]
    end: StepEnd
    text: str
    reasoning: str
    calls: tuple[ToolCall, ...]
    """The complete calls."""

    @property
    def arguments(self) -> list[JsonObject]:
        """The arguments of the calls."""
        return [parse_object(call.arguments_json) for call in self.calls]

    @property
    def message(self) -> AssistantMessage:
        """The generation as a message."""
        return AssistantMessage(text=self.text, reasoning=self.reasoning, tool_calls=self.calls)


async def heard(generation: StepStream) -> Said:
    """Reads a generation to its end and checks the rules that hold for every generation."""
    async with aclosing(generation) as reading:
        items = [item async for item in reading]
    *chunks, end = items
    assert isinstance(end, StepEnd), "the last item must be the end"
    only_chunks = [chunk for chunk in chunks if isinstance(chunk, Chunk)]
    assert len(only_chunks) == len(chunks), "there must be one end only"
    token_ids = tuple(token_id for chunk in only_chunks for token_id in chunk.token_ids)
    assert token_ids == end.token_ids, "the chunks must have all sampled tokens in order"
    pieces = [piece for chunk in only_chunks for piece in chunk.pieces]
    return Said(
        chunks=tuple(only_chunks),
        pieces=tuple(pieces),
        end=end,
        text="".join(piece.text for piece in pieces if isinstance(piece, TextPiece)),
        reasoning="".join(piece.text for piece in pieces if isinstance(piece, ReasoningPiece)),
        calls=calls_of(pieces),
    )


async def first_chunk(generation: StepStream) -> Chunk:
    """The first chunk of a generation. The generation stays open."""
    chunk = await anext(generation)
    assert isinstance(chunk, Chunk)
    assert chunk.token_ids
    return chunk


def calls_of(pieces: Sequence[Piece]) -> tuple[ToolCall, ...]:
    """The complete calls; checks the order of the pieces."""
    names: dict[int, str] = {}
    fragments: dict[int, list[str]] = {}
    written: list[int] = []
    for piece in pieces:
        match piece:
            case CallBegun(index, tool_name):
                assert index == len(names), "calls must be numbered in order"
                names[index], fragments[index] = tool_name, []
            case CallPiece(index, fragment):
                assert index not in written, "a complete call must get no more pieces"
                fragments[index].append(fragment)
            case CallWritten(index):
                assert index not in written, "a call must be completed only once"
                written.append(index)
            case _:
                continue
    return tuple(
        ToolCall(
            call_id=f"call{index:05}",
            tool_name=names[index],
            arguments_json="".join(fragments[index]),
        )
        for index in sorted(written)
    )


async def until_idle(engine: Engine) -> None:
    """Returns once the engine reports that nothing runs or waits in it."""
    async with asyncio.timeout(30):
        while True:
            load = await engine.load()
            if load.running == load.waiting == 0:
                return
            await asyncio.sleep(0)
