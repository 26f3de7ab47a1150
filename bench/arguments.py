"""Reading the arguments of a call: linear in their size.

The arguments are code that an agent writes, with quotes, brackets and the marks of the format in
it. They are read in the embedded model's form, a few tokens at a time, as a step of the engine
brings them. A quantity is the processor time for each KiB; if reading is linear, the largest call
takes as long for each KiB as the smallest.
"""

from __future__ import annotations

import argparse

from bench.process import started
from bench.report import AtMost, Report

SIZES = {
    "cpu": {"sizes_kib": "4,16,64,256", "rounds": 9},
    "quick": {"sizes_kib": "4,16", "rounds": 1},
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this bench."""
    parser.add_argument("--sizes-kib", help="sizes of the arguments")
    parser.add_argument("--rounds", type=int)


async def run(options: argparse.Namespace, report: Report) -> None:
    """Runs the bench and adds its samples to the report."""
    sizes = [int(text) for text in options.sizes_kib.split(",")]
    ratio = f"{sizes[-1]} KiB / {sizes[0]} KiB"
    async with started("bench.arms.parsing", {}) as child:
        for number in range(options.rounds):
            for size in sizes:
                answer = await child.ask("read", kib=size)
                us = 1e6 * float(str(answer["seconds"])) / size
                report.add(f"{size} KiB", us, unit="us a KiB")
            report.ratio(ratio, f"{sizes[-1]} KiB", f"{sizes[0]} KiB")
            report.judge(ratio, AtMost(1.5))
            report.round_ended()
            print(f"round {number + 1} of {options.rounds} ended")
