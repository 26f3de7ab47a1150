"""The processor time of a turn with calls whose results are not cached, now and at another commit.

A turn of a scripted engine makes 16 calls in 4 steps, and their handlers answer at once. So it
waits for nothing, and its processor time is all that it takes. It runs in a process of this tree,
in one of the other commit, and in a second one of that commit: the ratio of these two is what the
measurement cannot tell apart. The processes take turns, and each round starts new ones.
"""

from __future__ import annotations

import argparse
import statistics
from contextlib import AsyncExitStack

from bench.arms.called import KINDS
from bench.order import rotated
from bench.process import Child, started
from bench.report import AtMost, Report
from bench.trees import ROOT, checked_out, environ

MODULE = "bench.arms.called"
BEFORE_THE_CACHE = "c8a3c22b43c5c891242b1ca8938b4f3ea8677694"
BLOCKS = 12
"""How often the processes take turns in a round."""
ARMS = ("before", "now", "before, again")

SIZES = {
    "cpu": {"before": BEFORE_THE_CACHE, "turns": 20, "rounds": 9},
    "quick": {"before": "HEAD", "turns": 3, "rounds": 1},
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this bench."""
    parser.add_argument("--before", metavar="COMMIT", help="the other commit")
    parser.add_argument("--turns", type=int, help="turns before another process takes its turn")
    parser.add_argument("--rounds", type=int)


async def run(options: argparse.Namespace, report: Report) -> None:
    """Runs the bench and adds its samples to the report."""
    with checked_out(options.before, "bench/arms/called.py") as before:
        trees = {"before": before, "now": ROOT, "before, again": before}
        for number in range(options.rounds):
            async with AsyncExitStack() as stack:
                arms: dict[str, Child] = {}
                for name in rotated(ARMS, number):
                    child = started(MODULE, {}, environ=environ(trees[name]))
                    arms[name] = await stack.enter_async_context(child)
                for kind in KINDS:
                    await _measure(report, arms, kind, options.turns)
            report.round_ended()
            print(f"round {number + 1} of {options.rounds} ended")


async def _measure(report: Report, arms: dict[str, Child], kind: str, turns: int) -> None:
    times: dict[str, list[float]] = {name: [] for name in arms}
    for block in range(BLOCKS + 1):
        for name, child in arms.items():
            answer = await child.ask("turns", kind=kind, turns=turns)
            if block:  # the first block warms up
                times[name].append(float(str(answer["us"])))
    what = f"turn, tools: {kind}"
    for name in ARMS:
        report.add(f"{what}: {name}", statistics.median(times[name]), unit="us")
    for name in ARMS[1:]:
        report.ratio(f"{what}: {name} / before", f"{what}: {name}", f"{what}: before")
    report.judge(f"{what}: now / before", AtMost(1.02))
