"""Which size of KV block suits a CPU: the cost of continuing a turn, and the cost of decoding.

The cache holds whole blocks only, so a step that continues a turn computes up to one block of its
prefix again. Smaller blocks therefore continue sooner, but attention may run slower on them. Each
size has its own engine, and each round measures all sizes. Ratios are relative to vLLM's default
for a CPU. vLLM's attention on a CPU accepts no block below 32 tokens.
"""

from __future__ import annotations

import argparse
import random
import statistics
from typing import cast

from bench import served
from bench.process import Child
from bench.report import Report

DEFAULT = 128
AT_ONCE = 8
QUANTITIES = ("first token", "decoding, 1 at once", f"decoding, {AT_ONCE} at once")

SIZES = {
    "cpu": {
        "blocks": "32,64,128",
        "rounds": 2,
        "trials": 12,
        "prompt": 1000,
        "appended": 60,
        "tokens": 48,
        "max_num_seqs": 16,
        "max_model_len": 4096,
    },
    "quick": {
        "blocks": "32,128",
        "rounds": 1,
        "trials": 2,
        "prompt": 200,
        "appended": 20,
        "tokens": 8,
        "max_num_seqs": 16,
        "max_model_len": 2048,
    },
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this bench."""
    served.add_arguments(parser)
    parser.add_argument("--blocks", help=f"sizes to compare; {DEFAULT} is always included")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--trials", type=int, help="continuations in each round")
    parser.add_argument("--prompt", type=int, help="cached tokens of the prompt")
    parser.add_argument("--appended", type=int, help="tokens of the prompt that are not cached")
    parser.add_argument("--tokens", type=int, help="tokens to decode in each trial")


async def run(options: argparse.Namespace, report: Report) -> None:
    """Runs the bench and adds its samples to the report."""
    sizes = sorted({int(text) for text in options.blocks.split(",")} | {DEFAULT})
    done = report.count(_name(QUANTITIES[0], DEFAULT))
    for number in range(done, done + options.rounds):
        for size in sizes:
            async with served.served(options, block_size=size).precall() as server:
                await _round(server, size, number, options, report)
        for size in sizes:
            for quantity in QUANTITIES if size != DEFAULT else ():
                names = (_name(quantity, at) for at in (size, DEFAULT))
                report.ratio(f"{quantity}: blocks of {size} / of {DEFAULT}", *names)
        report.round_ended()


async def _round(
    server: Child, size: int, number: int, options: argparse.Namespace, report: Report
) -> None:
    source = random.Random(number)
    prompts = [_tokens(source, options.prompt) for _ in range(AT_ONCE)]
    await server.ask("generate", prompts=prompts, tokens=2)
    firsts: list[float] = []
    cached = 0
    for _ in range(options.trials):
        asked = [prompts[0] + _tokens(source, options.appended)]
        answer = await server.ask("generate", prompts=asked, tokens=1)
        firsts.append(1e3 * cast(list[float], answer["first_token_s"])[0])
        cached = cast(list[int], answer["cached_tokens"])[0]
    report.add(_name("cached of the prompt", size), cached, unit="tokens")
    report.add(_name("first token", size), statistics.median(firsts), unit="ms")
    for count in (1, AT_ONCE):
        asked = [prompt + _tokens(source, options.appended) for prompt in prompts[:count]]
        answer = await server.ask("generate", prompts=asked, tokens=options.tokens)
        decoding_s = float(str(answer["seconds"])) - max(cast(list[float], answer["first_token_s"]))
        per_token_ms = 1e3 * decoding_s / (options.tokens - 1)
        report.add(_name(f"decoding, {count} at once", size), per_token_ms, unit="ms a token")
    found = [report.samples(_name(quantity, size))[-1] for quantity in QUANTITIES]
    print(f"blocks of {size}: " + ", ".join(f"{value:.1f}" for value in found))


def _name(quantity: str, size: int) -> str:
    return f"{quantity}, blocks of {size}"


def _tokens(source: random.Random, count: int) -> list[int]:
    return [source.randrange(100, 40_000) for _ in range(count)]
