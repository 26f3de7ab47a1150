"""How fast the service forwards deltas with speculation off, compared with another commit.

The scripted service of the `stream` bench runs from this tree and from the commit before there was
any speculation. A second process of that commit shows what the measurement cannot tell apart. The
processes take turns on one core, and the reader has the other. "On" is this tree with a tool that
may run early, so that the turn is observed, although its predictors find nothing.
"""

from __future__ import annotations

import argparse
import os
from contextlib import AsyncExitStack

from bench import stream
from bench.order import rotated
from bench.process import started
from bench.report import AtLeast, Report
from bench.trees import ROOT, checked_out, environ
from precall.v1 import agent_pb2, tool_pb2
from precall_service.domain.json import JsonObject

OPEN_WITH_TOOL = agent_pb2.ConverseRequest(
    sequence=1,
    open=agent_pb2.OpenConversation(
        client_name="bench",
        tools=[
            tool_pb2.Tool(
                name="look_up",
                input_schema_json='{"type":"object"}',
                effects=tool_pb2.ToolEffects(read_only=True, speculation_safe=True),
            )
        ],
    ),
).SerializeToString()
MODULE = "bench.arms.scripted"
BEFORE_SPECULATION = "4f67bdf"
ARMS = ("before", "off", "on", "before, again")
EXTRA_MESSAGES = 4
"""Turn and step started, step and turn completed."""

SIZES = {
    "cpu": {
        "before": BEFORE_SPECULATION,
        "conversations": 64,
        "connections": 8,
        "deltas": 500,
        "rounds": 15,
    },
    "quick": {"before": "HEAD", "conversations": 8, "connections": 2, "deltas": 50, "rounds": 2},
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this bench."""
    parser.add_argument("--before", metavar="COMMIT", help="the other commit")
    parser.add_argument("--conversations", type=int)
    parser.add_argument("--connections", type=int)
    parser.add_argument("--deltas", type=int, help="deltas in a turn")
    parser.add_argument("--rounds", type=int)


async def run(options: argparse.Namespace, report: Report) -> None:
    """Runs the bench and adds its samples to the report."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[-1]})
    try:
        with checked_out(options.before, "bench/arms/scripted.py") as before:
            async with AsyncExitStack() as stack:
                arms: dict[str, stream.Arm] = {}
                for name in ARMS:
                    config: JsonObject = {
                        "deltas": options.deltas,
                        "text": stream.TEXT,
                        "ticks": False,
                    }
                    if name in {"off", "on"}:
                        config["speculation"] = "issue" if name == "on" else "off"
                    tree = before if name.startswith("before") else ROOT
                    child = await stack.enter_async_context(
                        started(MODULE, config, core=cores[0], environ=environ(tree))
                    )
                    arms[name] = await stream.Arm.connect(
                        child,
                        connections=options.connections,
                        calls=options.conversations // options.connections,
                        deltas_a_turn=options.deltas + EXTRA_MESSAGES,
                        opening=OPEN_WITH_TOOL,
                    )
                    stack.callback(arms[name].close)
                await _rounds(arms, options.rounds, report)
    finally:
        os.sched_setaffinity(0, set(cores))


async def _rounds(arms: dict[str, stream.Arm], rounds: int, report: Report) -> None:
    for number in range(rounds + 1):
        for name in rotated(ARMS, number):
            one = await arms[name].round()
            if number:  # the first round warms up
                report.add(name, one.rate, unit="deltas/s")
                print(f"round {number}: {name} {one.rate:,.0f} deltas/s")
        if number:
            for name in ARMS[1:]:
                report.ratio(f"deltas/s: {name} / before", name, "before")
            report.judge("deltas/s: off / before", AtLeast(1.0))
            report.round_ended()
