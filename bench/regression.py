"""Tokens per second and the continuation after a call, now and at another commit.

The whole service runs on the real engine from this tree and from the other commit, each with its
own client in the same process. The two take turns, with one engine at a time, and each round starts
both, in another order than the last.
"""

from __future__ import annotations

import argparse

from bench import served
from bench.process import Child, started
from bench.report import AtLeast, AtMost, Report
from bench.trees import BEFORE_NOBODY_STOPS_THE_LOOP, ROOT, checked_out, environ
from precall_service.domain.json import JsonObject

ARM = "bench/arms/whole.py"
MODULE = "bench.arms.whole"
NOISE = 0.05
"""How much two arms may differ before it counts: two rounds of one arm differ by as much."""

SIZES = {
    "cpu": {
        "before": BEFORE_NOBODY_STOPS_THE_LOOP,
        "conversations": "1,8",
        "tokens": 128,
        "blocks": 4,
        "turns": 12,
        "rounds": 3,
        "max_num_seqs": 16,
        "max_model_len": 2048,
        "block_size": 32,
    },
    "quick": {
        "before": "HEAD",
        "conversations": "1,2",
        "tokens": 16,
        "blocks": 1,
        "turns": 2,
        "rounds": 1,
        "max_num_seqs": 16,
        "max_model_len": 2048,
        "block_size": 32,
    },
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this bench."""
    served.add_arguments(parser)
    served.add_block_size(parser)
    parser.add_argument("--before", metavar="COMMIT", help="the other commit")
    parser.add_argument("--conversations", help="numbers of concurrent conversations to measure")
    parser.add_argument("--tokens", type=int, help="tokens of each conversation in a block")
    parser.add_argument("--blocks", type=int, help="blocks of text in a round")
    parser.add_argument("--turns", type=int, help="turns with a call in a round")
    parser.add_argument("--rounds", type=int, help="rounds; each starts both services")


async def run(options: argparse.Namespace, report: Report) -> None:
    """Runs the bench and adds its samples to the report."""
    arms = served.served(options, block_size=options.block_size)
    config: JsonObject = {
        "model": None if arms.model.embedded else arms.model.path_or_name,
        "device": arms.device,
        "vllm": arms.vllm,
    }
    counts = [int(text) for text in options.conversations.split(",")]
    with checked_out(options.before, ARM) as before:
        trees = [("before", before), ("now", ROOT)]
        for number in range(options.rounds):
            for name, tree in trees if number % 2 else reversed(trees):
                async with started(MODULE, config, environ=environ(tree)) as child:
                    await _measure(report, name, child, counts, options)
            for count in counts:
                ratio = f"tokens/s, {count} at once: now / before"
                report.ratio(ratio, _text("now", count), _text("before", count))
                report.judge(ratio, AtLeast(1 - NOISE))
            ratio = "result to next token: now / before"
            report.ratio(ratio, _continued("now"), _continued("before"))
            report.judge(ratio, AtMost(1 + NOISE))
            report.round_ended()
            print(f"round {number + 1} of {options.rounds} ended")


async def _measure(
    report: Report, name: str, child: Child, counts: list[int], options: argparse.Namespace
) -> None:
    for count in counts:
        for block in range(options.blocks + 1):
            found = await child.ask("decode", conversations=count, tokens=options.tokens)
            if block:  # the first one warms up
                report.add(_text(name, count), float(str(found["tokens_per_s"])), unit="tokens/s")
    for number in range(options.turns + 1):
        found = await child.ask("continue", question=f"Look up the number {4711 + number}.")
        if number:
            report.add(_continued(name), 1e3 * float(str(found["gap_s"])), unit="ms")


def _text(name: str, count: int) -> str:
    return f"text, {count} at once: {name}"


def _continued(name: str) -> str:
    return f"result to next token: {name}"
