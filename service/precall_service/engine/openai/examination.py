"""Finds out what a server can do, by one short answer and one call."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final

from precall_service.domain.errors import ServiceError
from precall_service.domain.events import TokenUsage
from precall_service.domain.messages import Transcript, UserMessage
from precall_service.domain.tools import ToolDeclaration, ToolEffects
from precall_service.domain.turn import GenerationSettings, ToolChoice, ToolChoiceMode
from precall_service.engine.base import (
    CallBegun,
    CallWritten,
    Chunk,
    EngineInfo,
    Priority,
    StepEnd,
    StepSpec,
    TextPiece,
)
from precall_service.engine.openai.config import OpenAiConfig
from precall_service.engine.openai.connection import connected
from precall_service.engine.openai.engine import OpenAiEngine

TIMEOUT_S: Final = 120.0
_TOKENS_MAX: Final = 256
_TOOL: Final = ToolDeclaration(
    name="look_up_weather",
    version="1",
    digest="look_up_weather",
    description="Returns the weather in a city.",
    input_schema={
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    },
    output_schema=None,
    effects=ToolEffects(),
    timeout_s=1.0,
    max_concurrency=1,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFindings:
    """What a server did when it was asked.

    Attributes:
        parts: In how many parts its answer came: one, if it does not stream.
        usage: The tokens that it counted; all 0 if it counts none.
        problem: Why it gave no answer; empty if it did.
        call_problem: Why it made no call although one was required; empty if it did.
    """

    info: EngineInfo
    parts: int
    usage: TokenUsage
    problem: str = ""
    call_problem: str = ""


async def examine_server(config: OpenAiConfig) -> ServerFindings:
    """Has the server generate an answer and a call.

    Raises:
        EngineStartError: the server does not answer, or has no such model.
    """
    client, model = await connected(config)
    engine = OpenAiEngine(client, config, model)
    try:
        async with asyncio.timeout(TIMEOUT_S):
            try:
                parts, usage, _ = await _asked(engine, ToolChoiceMode.NONE)
            except ServiceError as error:
                return ServerFindings(
                    info=engine.info, parts=0, usage=TokenUsage(), problem=error.message
                )
            try:
                _, _, called = await _asked(engine, ToolChoiceMode.REQUIRED)
                problem = "" if called else "it wrote no call, although one was required"
            except ServiceError as error:
                problem = error.message
            return ServerFindings(info=engine.info, parts=parts, usage=usage, call_problem=problem)
    except TimeoutError:
        problem = f"it took more than {TIMEOUT_S:g} s"
        return ServerFindings(info=engine.info, parts=0, usage=TokenUsage(), problem=problem)
    finally:
        await engine.close()


async def _asked(engine: OpenAiEngine, mode: ToolChoiceMode) -> tuple[int, TokenUsage, bool]:
    """The parts and tokens of an answer, and whether it has a whole call of the tool."""
    question = Transcript(
        messages=(UserMessage(text="What is the weather in Paris?"),), tools=(_TOOL,)
    )
    spec = StepSpec(
        step_id="doctor",
        max_tokens=_TOKENS_MAX,
        generation=GenerationSettings(),
        tools=question.tools,
        tool_choice=ToolChoice(mode=mode),
        priority=Priority.STARTS_TURN,
        tenant="doctor",
    )
    parts, usage, named, written = 0, TokenUsage(), False, False
    async with aclosing(engine.generate(await engine.render(question), spec)) as chunks:
        async for chunk in chunks:
            match chunk:
                case StepEnd():
                    usage = chunk.usage
                case Chunk():
                    parts += any(isinstance(piece, TextPiece) for piece in chunk.pieces)
                    for piece in chunk.pieces:
                        named |= isinstance(piece, CallBegun) and piece.tool_name == _TOOL.name
                        written |= isinstance(piece, CallWritten)
    return parts, usage, named and written
