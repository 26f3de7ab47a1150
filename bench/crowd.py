"""How the service keeps up with many conversations at once, now and at another commit.

Each conversation gets tokens at the rate of a model, from an engine that is only a clock. The
service is on core 0, the reader on core 1. The gap is the time between two messages of a turn. The
first second of the turns is left out, in which all of them start. Where the service cannot write
each token by itself, the tokens must still come, in larger pieces: "delivered" is their fraction.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import time
from dataclasses import dataclass

from bench.order import rotated
from bench.process import Child, started
from bench.report import AtLeast, AtMost, Report
from bench.stats import percentile
from bench.stream import OPEN, PATH, START, TEXT, DeltaReader
from bench.trees import ROOT, checked_out, environ
from precall_service.domain.json import JsonObject

ARM = "bench/arms/paced.py"
MODULE = "bench.arms.paced"
BEFORE_NOBODY_STOPS_THE_LOOP = "77efa77"
ARMS = ("before", "now")
CONNECTIONS = 10
START_S = 1.0
"""The first part of the turns, which is not measured."""
MARGIN_S = 0.5
"""The last part, in which turns end."""

SIZES = {
    "cpu": {
        "before": BEFORE_NOBODY_STOPS_THE_LOOP,
        "conversations": "300,400,600",
        "rate": 50.0,
        "seconds": 6.0,
        "rounds": 5,
    },
    "quick": {
        "before": "HEAD",
        "conversations": "10,20",
        "rate": 50.0,
        "seconds": 2.0,
        "rounds": 1,
    },
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this bench."""
    parser.add_argument("--before", metavar="COMMIT", help="the other commit")
    parser.add_argument("--conversations", help="numbers of concurrent conversations to measure")
    parser.add_argument("--rate", type=float, help="tokens per second of each conversation")
    parser.add_argument("--seconds", type=float, help="how long a turn generates")
    parser.add_argument("--rounds", type=int)


async def run(options: argparse.Namespace, report: Report) -> None:
    """Runs the bench and adds its samples to the report."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[-1]})
    counts = [int(text) for text in options.conversations.split(",")]
    try:
        with checked_out(options.before, ARM) as before:
            trees = {"before": before, "now": ROOT}
            for number in range(options.rounds):
                for count in counts:
                    for name in rotated(ARMS, number):
                        found = await _round(options, count, environ(trees[name]), core=cores[0])
                        _add(report, f"{count} conversations, {name}", found)
                _compare(report, counts)
    finally:
        os.sched_setaffinity(0, set(cores))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    gap_p50_s: float
    gap_p99_s: float
    delivered: float
    server_share: float


class TimedReader(DeltaReader):
    """Notes the times between the messages of each stream, and the tokens that came."""

    def __init__(self) -> None:
        super().__init__()
        self._last: dict[int, float] = {}
        self.gaps_s: list[float] = []
        self.tokens = 0

    def arrived(self, stream: int, message: bytes) -> int:
        """As `Reader.arrived`."""
        now = time.perf_counter()
        if stream in self._last:
            self.gaps_s.append(now - self._last[stream])
        self._last[stream] = now
        count = super().arrived(stream, message)
        self.tokens += count
        return count

    def forget(self) -> None:
        """Begins to measure anew."""
        self._last.clear()
        self.gaps_s.clear()
        self.tokens = 0


async def _round(
    options: argparse.Namespace, count: int, environment: dict[str, str], *, core: int
) -> _Found:
    config: JsonObject = {
        "text": TEXT,
        "tokens": round(options.rate * options.seconds),
        "step_s": 1 / options.rate,
    }
    async with started(MODULE, config, core=core, environ=environment) as child:
        readers = [
            await TimedReader.connect(str(child.ready["address"])) for _ in range(CONNECTIONS)
        ]
        try:
            return await _measured(options, child, readers, count // CONNECTIONS)
        finally:
            for reader in readers:
                reader.close()


async def _measured(
    options: argparse.Namespace, child: Child, readers: list[TimedReader], calls: int
) -> _Found:
    address = str(child.ready["address"])
    streams = [(reader, reader.open(calls, address, PATH)) for reader in readers]
    for message in (OPEN, START):
        for reader, ids in streams:
            for stream in ids:
                reader.send(stream, message)
        if message is OPEN:
            for reader in readers:
                await reader.read(calls)
    await asyncio.sleep(START_S)
    for reader in readers:
        reader.forget()
    cpu_s, began = child.cpu_s(), time.perf_counter()
    await asyncio.sleep(options.seconds - START_S - MARGIN_S)
    took_s = time.perf_counter() - began
    gaps_s = [gap for reader in readers for gap in reader.gaps_s]
    tokens = sum(reader.tokens for reader in readers)
    return _Found(
        gap_p50_s=percentile(gaps_s, 0.5),
        gap_p99_s=percentile(gaps_s, 0.99),
        delivered=tokens / (took_s * options.rate * calls * CONNECTIONS),
        server_share=(child.cpu_s() - cpu_s) / took_s,
    )


def _add(report: Report, name: str, found: _Found) -> None:
    report.add(f"{name}: gap, median", 1e3 * found.gap_p50_s, unit="ms")
    report.add(f"{name}: gap, p99", 1e3 * found.gap_p99_s, unit="ms")
    report.add(f"{name}: delivered", found.delivered)
    report.add(f"{name}: server's share of its core", found.server_share)
    print(
        f"{name}: gap {1e3 * found.gap_p50_s:.1f} ms, p99 {1e3 * found.gap_p99_s:.1f} ms, "
        f"delivered {found.delivered:.3f}, {found.server_share:.2f} of a core"
    )


def _compare(report: Report, counts: list[int]) -> None:
    for count in counts:
        now, before = (f"{count} conversations, {name}: gap, p99" for name in ("now", "before"))
        ratio = f"{count} conversations: gap, p99: now / before"
        report.ratio(ratio, now, before)
        report.judge(ratio, AtMost(1.0))
        report.judge(f"{count} conversations, now: delivered", AtLeast(0.98))
    report.round_ended()
