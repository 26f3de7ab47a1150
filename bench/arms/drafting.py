"""The real engine without the service: a long call, generated or verified, and plain text."""

from __future__ import annotations

import asyncio
import itertools
import time
from contextlib import aclosing
from typing import Any, Final, cast

from bench.process import Link, run_child
from precall_service.cli.launch import engine_config
from precall_service.domain.json import JsonObject, dump
from precall_service.domain.messages import Transcript, UserMessage
from precall_service.domain.tools import ToolDeclaration, ToolEffects
from precall_service.domain.turn import GenerationSettings, ToolChoice, ToolChoiceMode
from precall_service.engine.base import CallWritten, Chunk, Engine, Feature, Priority, StepSpec
from precall_service.engine.drafts import Draft
from precall_service.engine.models import resolve_model
from precall_service.engine.vllm.factory import VllmEngineFactory
from precall_service.settings import load_settings

PARTS: Final = {
    f"{name}_of_the_report": f"The {name} of the report about the harvest of {year}, as it was sent"
    for name, year in (("title", 1987), ("summary", 1992), ("author", 2003))
}
TOOL: Final = ToolDeclaration(
    name="file_report",
    version="1",
    digest="file_report",
    description="Files a report.",
    input_schema={
        "type": "object",
        "properties": {name: {"enum": [text]} for name, text in PARTS.items()},
        "required": list(PARTS),
        "additionalProperties": False,
    },
    output_schema=None,
    effects=ToolEffects(),
    timeout_s=1.0,
    max_concurrency=1,
)
"""A tool with one possible call, of about 100 tokens: so a draft of it is always right."""
REQUIRED: Final = ToolChoice(mode=ToolChoiceMode.NAMED, tool_name=TOOL.name)
_numbers = itertools.count()


async def called(engine: Engine, *, drafted: bool) -> JsonObject:
    """The time from the first token of a message to the end of its call, and its tokens."""
    question = Transcript(messages=(UserMessage(text="File the report."),), tools=(TOOL,))
    spec = _spec((TOOL,), REQUIRED, 256, (Draft(TOOL.name, dump(PARTS)),) if drafted else ())
    began, tokens = 0.0, 0
    async with aclosing(engine.generate(await engine.render(question), spec)) as chunks:
        async for chunk in chunks:
            if not isinstance(chunk, Chunk):
                break
            began, tokens = began or time.perf_counter(), tokens + len(chunk.token_ids)
            if any(isinstance(piece, CallWritten) for piece in chunk.pieces):
                return {"seconds": time.perf_counter() - began, "tokens": tokens}
    raise ValueError("the model has not written the call")


async def decoded(engine: Engine, sequences: int, tokens: int) -> JsonObject:
    """The tokens per second of so many sequences of plain text, while all of them are decoded."""

    async def one(number: int) -> list[tuple[float, int]]:
        question = Transcript(messages=(UserMessage(text=f"Tell me story number {number}."),))
        prompt = await engine.render(question)
        spec = _spec((), ToolChoice(), tokens, ())
        async with aclosing(engine.generate(prompt, spec)) as chunks:
            return [
                (time.perf_counter(), len(chunk.token_ids))
                async for chunk in chunks
                if isinstance(chunk, Chunk)
            ]

    found = await asyncio.gather(*map(one, range(sequences)))
    all_began, one_ended = max(each[0][0] for each in found), min(each[-1][0] for each in found)
    count = sum(new for each in found for at, new in each if all_began < at <= one_ended)
    return {"tokens_per_s": count / (one_ended - all_began)}


def _spec(
    tools: tuple[ToolDeclaration, ...],
    choice: ToolChoice,
    max_tokens: int,
    drafts: tuple[Draft, ...],
) -> StepSpec:
    return StepSpec(
        step_id=f"bench-{next(_numbers)}",
        max_tokens=max_tokens,
        generation=GenerationSettings(temperature=0.0),
        tools=tools,
        tool_choice=choice,
        priority=Priority.STARTS_TURN,
        tenant="bench",
        drafts=drafts,
    )


async def main(config: JsonObject, link: Link) -> None:
    """Starts an engine, with or without drafts, and measures what the bench asks for."""
    section = {name: config[name] for name in ("model", "device", "vllm", "drafts")}
    settings = load_settings(None, cast(Any, {"engine": section}))
    model = await asyncio.to_thread(resolve_model, settings.engine.model)
    engine = await VllmEngineFactory(engine_config(settings, model))(lambda _stage, _done: None)
    try:
        if (Feature.DRAFTS in engine.info.features) != bool(config["drafts"]):
            raise ValueError("this engine verifies no drafts: the log says why")

        async def call(fields: JsonObject) -> JsonObject:
            return await called(engine, drafted=bool(fields["drafted"]))

        async def decode(fields: JsonObject) -> JsonObject:
            return await decoded(engine, int(str(fields["sequences"])), int(str(fields["tokens"])))

        await link.answer({}, {"call": call, "decode": decode})
    finally:
        await engine.close()


if __name__ == "__main__":
    run_child(main)
