"""How much memory speculation takes: open predictions, a tenant's records, and learned history.

It is the growth of the resident memory of a new process while it is filled. What is bounded is
filled to its bound: records with all tools, predictors, sets of tools and places that are kept of a
tenant, each with all the durations that are remembered; and a history of many tools with varied
arguments.
"""

from __future__ import annotations

import argparse

from bench.process import started
from bench.report import Report
from precall_service.speculation.predictors.history.predictor import HistoryLimits
from precall_service.speculation.records import TENANTS_MAX, TOOLS_MAX

SIZES = {
    "cpu": {"predictions": 100_000, "tenants": 8, "calls": 10_000, "rounds": 3},
    "quick": {"predictions": 2000, "tenants": 1, "calls": 200, "rounds": 1},
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this bench."""
    parser.add_argument("--predictions", type=int, help="open predictions")
    parser.add_argument("--tenants", type=int, help="tenants with full records")
    parser.add_argument("--calls", type=int, help="calls that a tenant's history learns from")
    parser.add_argument("--rounds", type=int)


async def run(options: argparse.Namespace, report: Report) -> None:
    """Runs the bench and adds its samples to the report."""
    for number in range(options.rounds):
        each = await _growth("predictions", options.predictions) / options.predictions
        report.add("open prediction", each / 1024, unit="KiB")
        tenant = await _growth("records", options.tenants) / options.tenants
        report.add(f"records of a tenant, {TOOLS_MAX} tools", tenant / 2**20, unit="MiB")
        bound = tenant * TENANTS_MAX / 2**30
        report.add(f"all records at their bound, {TENANTS_MAX:,} tenants", bound, unit="GiB")
        learned = await _growth("history", 2, calls=options.calls) / 2
        name = f"learned history of a tenant, {options.calls:,} calls"
        report.add(name, learned / 2**20, unit="MiB")
        bound = learned * HistoryLimits().tenants_max / 2**20
        name = f"all learned history at its bound, {HistoryLimits().tenants_max} tenants"
        report.add(name, bound, unit="MiB")
        report.round_ended()
        print(f"round {number + 1} of {options.rounds} ended")


async def _growth(what: str, count: int, **more: int) -> int:
    """Returns by how many bytes a new process grows while it is filled."""
    async with started("bench.arms.remembered", {}) as child:
        before = child.anonymous_bytes()
        await child.ask(what, count=count, **more)
        return child.anonymous_bytes() - before
