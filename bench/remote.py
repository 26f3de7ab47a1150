"""What the service costs in front of a server of vLLM's: turns without tools.

One server serves both arms: an OpenAI client that asks it directly, and precall's client, which
asks the service in front of it. Both stream the same texts, greedily and to the same length, by
turns.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Awaitable, Callable

import openai

import precall
from bench import served
from bench.process import started
from bench.report import AtMost, Report
from precall_service.domain.json import JsonObject

OVERHEAD_MAX = 1.03

SIZES = {
    "cpu": {
        "tokens": 128,
        "rounds": 12,
        "conversations": "1,8",
        "max_num_seqs": 16,
        "max_model_len": 2048,
        "block_size": 32,
    },
    "gpu": {
        "tokens": 512,
        "rounds": 12,
        "conversations": "1,8,64",
        "max_num_seqs": 128,
        "max_model_len": 8192,
        "block_size": 16,
    },
    "quick": {
        "tokens": 16,
        "rounds": 1,
        "conversations": "1,2",
        "max_num_seqs": 16,
        "max_model_len": 2048,
        "block_size": 32,
    },
}

Ask = Callable[[str], Awaitable[float]]
"""Has a text written, and returns the seconds to its first piece."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this bench."""
    served.add_arguments(parser)
    served.add_block_size(parser)
    parser.add_argument("--tokens", type=int, help="tokens of each text")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--conversations", help="numbers of texts at once to measure")


async def run(options: argparse.Namespace, report: Report) -> None:
    """Runs the bench and adds its samples to the report."""
    arms = served.served(options, block_size=options.block_size)
    model, tokens = arms.model.display_name, int(options.tokens)
    async with arms.openai() as server:
        url = str(server.ready["address"])
        sections: JsonObject = {
            "engine": {"backend": "openai", "model": model},
            "openai": {"url": url},
        }
        async with (
            started("bench.arms.launched", sections) as service,
            openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as bare,
            precall.Client(str(service.ready["address"])) as client,
        ):
            asks: dict[str, Ask] = {
                "server alone": lambda text: _asked_directly(bare, model, text, tokens),
                "precall in front": lambda text: _asked(client, text, tokens),
            }
            for count in map(int, options.conversations.split(",")):
                for number in range(options.rounds + 1):
                    for name in list(asks)[:: 1 if number % 2 else -1]:
                        turn_s, first_s = await _measured(asks[name], count)
                        if number:  # the first round warms up
                            report.add(f"turns, {count} at once: {name}", turn_s, unit="s")
                            report.add(
                                f"first piece, {count} at once: {name}", 1e3 * first_s, unit="ms"
                            )
                for what in (f"turns, {count} at once", f"first piece, {count} at once"):
                    ratio = f"{what}: precall in front / server alone"
                    report.ratio(ratio, f"{what}: precall in front", f"{what}: server alone")
                report.judge(
                    f"turns, {count} at once: precall in front / server alone", AtMost(OVERHEAD_MAX)
                )
                report.round_ended()


async def _measured(ask: Ask, count: int) -> tuple[float, float]:
    """The seconds of so many texts at once, and the mean to their first pieces."""
    began = time.perf_counter()
    texts = [f"Write a very long story with {number + 2} chapters." for number in range(count)]
    firsts = await asyncio.gather(*map(ask, texts))
    return time.perf_counter() - began, sum(firsts) / count


async def _asked_directly(client: openai.AsyncOpenAI, model: str, text: str, tokens: int) -> float:
    began, first_s = time.perf_counter(), 0.0
    stream = await client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": text}],
        temperature=0.0,
        max_tokens=tokens,
        stream=True,
        stream_options={"include_usage": True},
    )
    async for part in stream:
        delta = part.choices[0].delta if part.choices else None
        # A server with a reasoning parser may take a plain text for reasoning.
        if delta is not None and (delta.content or (delta.model_extra or {}).get("reasoning")):
            first_s = first_s or time.perf_counter() - began
    return first_s


async def _asked(client: precall.Client, text: str, tokens: int) -> float:
    first_s = 0.0
    async with client.conversation() as conversation:
        began = time.perf_counter()
        async for event in conversation.send(text, temperature=0.0, max_step_tokens=tokens):
            if isinstance(event, precall.TextDelta | precall.ReasoningDelta):
                first_s = first_s or time.perf_counter() - began
    return first_s
