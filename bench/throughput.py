"""Tokens per second through the service, compared with raw AsyncLLM in the same process.

One engine serves both arms: the raw arm sends the service's prompts to its AsyncLLM once more, with
the same tokens and the same sampling. Rounds alternate between the arms. The raw arm is timed
inside the server's process, the service by a client in another process.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from typing import Any, cast

import precall
from bench import served
from bench.process import Child
from bench.report import AtLeast, Report

_TOPICS = (
    "the sea", "a long winter", "an old bridge", "two brothers", "a lighthouse", "the night train",
    "a small town", "the last harvest",
)  # fmt: skip

SIZES = {
    "cpu": {
        "tokens": 128,
        "rounds": 7,
        "conversations": "1,8",
        "max_num_seqs": 16,
        "max_model_len": 2048,
        "block_size": 32,
    },
    "gpu": {
        "tokens": 512,
        "rounds": 7,
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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this bench."""
    served.add_arguments(parser)
    served.add_block_size(parser)
    parser.add_argument("--tokens", type=int, help="tokens to generate per conversation and round")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--conversations", help="numbers of concurrent conversations to measure")


async def run(options: argparse.Namespace, report: Report) -> None:
    """Runs the bench and adds its samples to the report."""
    counts = [int(text) for text in options.conversations.split(",")]
    async with (
        served.served(options, block_size=options.block_size).precall() as server,
        precall.Client(str(server.ready["address"])) as client,
    ):
        for count in counts:
            await _rounds(client, server, count, options, report)


async def _rounds(
    client: precall.Client,
    server: Child,
    count: int,
    options: argparse.Namespace,
    report: Report,
) -> None:
    await server.ask("record", on=True)
    await _service_round(client, count, options.tokens)  # warms up and records the prompts
    answer = await server.ask("generations")
    assert len(cast(list[Any], answer["generations"])) == count
    await server.ask("record", on=False)
    await server.ask("repeat")
    raw, service = f"raw AsyncLLM, {count} at once", f"precall, {count} at once"
    for number in range(options.rounds):
        answer = await server.ask("repeat")
        rate = float(str(answer["tokens"])) / float(str(answer["seconds"]))
        report.add(raw, rate, unit="tokens/s")
        report.add(service, await _service_round(client, count, options.tokens), unit="tokens/s")
        found = [report.samples(name)[-1] for name in (raw, service)]
        print(f"{count} at once, round {number + 1}: raw {found[0]:.1f}, precall {found[1]:.1f}")
        ratio = f"tokens/s, {count} at once: precall / raw"
        report.ratio(ratio, service, raw)
        report.judge(ratio, AtLeast(0.98))
        report.round_ended()


async def _service_round(client: precall.Client, count: int, tokens: int) -> float:
    """Runs one turn in each of `count` new conversations; returns their total tokens per second."""
    conversations = [await client.conversation().open() for _ in range(count)]

    async def turn(conversation: precall.Conversation, topic: str) -> int:
        text = f"Write a very long story about {topic}, in many chapters."
        answer = await conversation.send(text, temperature=0.0, max_step_tokens=tokens).answer()
        return answer.report.usage.output_tokens

    try:
        began = time.perf_counter()
        counts = await asyncio.gather(
            *(
                turn(conversation, _TOPICS[index % len(_TOPICS)] + " " * (index // len(_TOPICS)))
                for index, conversation in enumerate(conversations)
            )
        )
        return sum(counts) / (time.perf_counter() - began)
    finally:
        for conversation in conversations:
            await conversation.close()
