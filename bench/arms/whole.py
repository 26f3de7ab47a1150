"""The service on the real engine, and its client, in one process.

The `regression` bench also runs this file in a copy of an older commit. So it uses only what both
have.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any, cast

import precall
from bench.process import Link, run_child
from precall_service import app
from precall_service.cli.launch import engine_config
from precall_service.domain.json import JsonObject
from precall_service.engine.models import resolve_model
from precall_service.engine.vllm.factory import VllmEngineFactory
from precall_service.settings import load_settings

RESULT_WORDS = 80


async def main(config: JsonObject, link: Link) -> None:
    """Serves until the bench ends, and runs turns when it asks for them."""
    engine = {name: config[name] for name in ("model", "device", "vllm")}
    settings = load_settings(
        None, cast(Any, {"server": {"port": 0, "drain_s": 0}, "engine": engine})
    )
    model = await asyncio.to_thread(resolve_model, settings.engine.model)
    async with (
        app.serve(
            settings,
            VllmEngineFactory(engine_config(settings, model)),
            model=model.display_name,
            on_progress=lambda _stage, _fraction: None,
        ) as service,
        precall.Client(service.address) as client,
    ):

        async def decode(fields: JsonObject) -> JsonObject:
            """Runs turns of plain text, all at once; returns their tokens per second."""
            count, tokens = int(str(fields["conversations"])), int(str(fields["tokens"]))
            began = time.perf_counter()
            counts = await asyncio.gather(*(_story(client, at, tokens) for at in range(count)))
            return {"tokens_per_s": sum(counts) / (time.perf_counter() - began)}

        async def go_on(fields: JsonObject) -> JsonObject:
            """Runs a turn with a call; returns the seconds from its result to the next token."""
            return {"gap_s": await _gap(client, str(fields["question"]))}

        await link.answer({}, {"decode": decode, "continue": go_on})


async def _story(client: precall.Client, number: int, tokens: int) -> int:
    async with client.conversation() as conversation:
        text = f"Write a very long story with {number + 2} chapters."
        answer = await conversation.send(text, temperature=0.0, max_step_tokens=tokens).answer()
        return answer.report.usage.output_tokens


async def _gap(client: precall.Client, question: str) -> float:
    answered_at, gap_s = 0.0, 0.0

    async def look_up(number: int) -> str:
        nonlocal answered_at
        answered_at = time.perf_counter()
        return f"The entry of {number}: " + "apple stone river " * (RESULT_WORDS // 3)

    async with client.conversation(tools=[look_up]) as conversation:
        turn = conversation.send(
            question, temperature=0.0, max_steps=2, max_step_tokens=64, tool_choice=look_up
        )
        async for event in turn:
            seen = isinstance(event, (precall.TextDelta, precall.ToolCallStarted))
            if seen and answered_at and not gap_s:
                gap_s = time.perf_counter() - answered_at
    if not gap_s:
        raise ValueError("the turn made no call, or nothing followed on its result")
    return gap_s


if __name__ == "__main__":
    run_child(main)
