"""A tenant that means harm, beside ordinary conversations of another.

Each round has a server of its own on core 0, with an engine that is only a clock: the victims'
turns get a token at the rate of a model. Their reader is on core 1, and so is the attacker, which
is niced. An attack begins a second before the victims' turns do. "All" are all attacks together,
each as a tenant of its own; they are also made without the one that costs others most. A pause is
how long the event loop of the server did nothing else.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass

from bench.crowd import MARGIN_S, START_S, Crowd
from bench.process import Child, started
from bench.report import AtMost, Report
from bench.stats import percentile
from bench.stream import TEXT
from precall_service.domain.json import JsonObject
from tests.support.attacks import ATTACKS

SERVER = "bench.arms.attacked"
ALONE = "alone"
MOST = "many conversations"
"""Thousands of streams that end in one moment, for which gRPC alone needs long."""
TOGETHER = {
    f"all but {MOST}": [name for name in ATTACKS if name != MOST],
    "all": [*ATTACKS],
}
PAUSE_MAX_S = 0.05
AHEAD_S = 1.0
"""How long an attack goes on before the victims' turns begin."""

SIZES = {
    "cpu": {"victims": 32, "rate": 50.0, "seconds": 8.0, "sequences": 64, "rounds": 3, "only": ""},
    "quick": {"victims": 8, "rate": 50.0, "seconds": 3.0, "sequences": 16, "rounds": 1, "only": ""},
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this bench."""
    parser.add_argument("--victims", type=int, help="ordinary conversations")
    parser.add_argument("--rate", type=float, help="tokens per second of each conversation")
    parser.add_argument("--seconds", type=float, help="how long a turn generates")
    parser.add_argument("--sequences", type=int, help="slots of the engine")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--only", help="some attacks, such as 'junk,all'")


async def run(options: argparse.Namespace, report: Report) -> None:
    """Runs the bench and adds its samples to the report."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[-1]})
    names = options.only.split(",") if options.only else [*ATTACKS, *TOGETHER]
    try:
        for _ in range(options.rounds):
            for name in (ALONE, *names):
                found = await _round(options, name, core=cores[0])
                report.add(f"{name}: gap, p99", 1e3 * found.gap_p99_s, unit="ms")
                report.add(f"{name}: longest pause", 1e3 * found.pause_s, unit="ms")
                report.add(f"{name}: memory", found.memory_mib, unit="MiB")
                print(
                    f"{name}: gap p99 {1e3 * found.gap_p99_s:.1f} ms, longest pause "
                    f"{1e3 * found.pause_s:.0f} ms, {found.memory_mib:.0f} MiB"
                )
            for name in names:
                ratio = f"{name}: gap, p99: attacked / alone"
                report.ratio(ratio, f"{name}: gap, p99", f"{ALONE}: gap, p99")
                report.judge(ratio, AtMost(1.5))
                report.judge(f"{name}: longest pause", AtMost(1e3 * PAUSE_MAX_S))
            report.round_ended()
    finally:
        os.sched_setaffinity(0, set(cores))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    gap_p99_s: float
    pause_s: float
    memory_mib: float
    """The most memory of its own that the server had."""


async def _round(options: argparse.Namespace, name: str, *, core: int) -> _Found:
    config: JsonObject = {
        "text": TEXT,
        "tokens": round(options.rate * options.seconds),
        "step_s": 1 / options.rate,
        "sequences": options.sequences,
    }
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(started(SERVER, config, core=core))
        address = str(server.ready["address"])
        victims = await Crowd.opened(address, options.victims)
        stack.callback(victims.close)
        await server.ask("pause")  # that of the start is not counted
        if name != ALONE:
            attacks = TOGETHER.get(name, [name])
            attacker: JsonObject = {"address": address, "attacks": [*attacks]}
            await stack.enter_async_context(started("bench.arms.attacker", attacker))
        await asyncio.sleep(AHEAD_S)
        victims.start()
        memory = await _most_memory(server, START_S)
        victims.forget()
        more = await _most_memory(server, options.seconds - START_S - MARGIN_S)
        return _Found(
            gap_p99_s=percentile(victims.gaps_s(), 0.99),
            pause_s=float(str((await server.ask("pause"))["longest_s"])),
            memory_mib=max(memory, more) / (1 << 20),
        )


async def _most_memory(server: Child, seconds: float) -> float:
    """Returns the most bytes of its own that a server has had in this time."""
    until, most = time.monotonic() + seconds, 0
    while time.monotonic() < until:
        most = max(most, server.anonymous_bytes())
        await asyncio.sleep(0.1)
    return most
