"""How the service keeps up with many conversations at once, now and at another commit.

Each conversation gets tokens at the rate of a model, from an engine that is only a clock. The
service is on core 0, the reader on core 1. The gap is the time between two messages of a turn.

What is measured begins when every turn has had its first token, and a second at least has passed.
"All have begun" is how long the first tokens took. Where the service cannot write each token by
itself, the tokens must still come, in larger pieces: "delivered" is their fraction.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from bench.order import rotated
from bench.process import Child, started
from bench.report import AtLeast, AtMost, Report
from bench.stats import percentile
from bench.stream import OPEN, PATH, START, TEXT, DeltaReader
from bench.trees import BEFORE_NOBODY_STOPS_THE_LOOP, ROOT, checked_out, environ
from precall_service.domain.json import JsonObject

ARM = "bench/arms/paced.py"
MODULE = "bench.arms.paced"
ARMS = ("before", "now")
_TEXT = TEXT.encode()
CONNECTIONS = 10
START_S = 1.0
"""The first part of the turns, which is not measured; longer if some have not begun by then."""
MARGIN_S = 0.5
"""The last part, in which turns end."""

SIZES = {
    "cpu": {
        "before": BEFORE_NOBODY_STOPS_THE_LOOP,
        "conversations": "300,400,600",
        "rate": 50.0,
        "seconds": 8.0,
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
    begun_s: float
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
        self.begun: set[int] = set()
        """The streams that have had a token."""

    def arrived(self, stream: int, message: bytes) -> int:
        """As `Reader.arrived`."""
        now = time.perf_counter()
        if stream in self._last:
            self.gaps_s.append(now - self._last[stream])
        self._last[stream] = now
        if _TEXT in message:
            self.begun.add(stream)
        count = super().arrived(stream, message)
        self.tokens += count
        return count

    def forget(self) -> None:
        """Begins to measure anew."""
        self._last.clear()
        self.gaps_s.clear()
        self.tokens = 0


class Crowd:
    """Conversations with one server, each with one turn."""

    def __init__(self, readers: Sequence[TimedReader], address: str, count: int) -> None:
        self._streams = [
            (reader, reader.open(count // len(readers) + (n < count % len(readers)), address, PATH))
            for n, reader in enumerate(readers)
        ]

    @classmethod
    async def opened(cls, address: str, count: int) -> Self:
        """Opens so many conversations, over CONNECTIONS connections."""
        readers = [await TimedReader.connect(address) for _ in range(CONNECTIONS)]
        crowd = cls(readers, address, count)
        crowd._send(OPEN)
        for reader, ids in crowd._streams:
            await reader.read(len(ids))
        return crowd

    def start(self) -> None:
        """Starts all turns."""
        self._send(START)

    async def begun(self) -> None:
        """Returns when every turn has had its first token."""
        while any(len(reader.begun) < len(ids) for reader, ids in self._streams):  # noqa: ASYNC110
            await asyncio.sleep(0.01)

    def forget(self) -> None:
        """Begins to measure anew."""
        for reader, _ in self._streams:
            reader.forget()

    def gaps_s(self) -> list[float]:
        """Returns the times between the messages of each turn."""
        return [gap for reader, _ in self._streams for gap in reader.gaps_s]

    def tokens(self) -> int:
        """Returns how many tokens have come."""
        return sum(reader.tokens for reader, _ in self._streams)

    def close(self) -> None:
        """Ends the connections."""
        for reader, _ in self._streams:
            reader.close()

    def _send(self, message: bytes) -> None:
        for reader, ids in self._streams:
            for stream in ids:
                reader.send(stream, message)


async def _round(
    options: argparse.Namespace, count: int, environment: dict[str, str], *, core: int
) -> _Found:
    config: JsonObject = {
        "text": TEXT,
        "tokens": round(options.rate * options.seconds),
        "step_s": 1 / options.rate,
    }
    async with started(MODULE, config, core=core, environ=environment) as child:
        crowd = await Crowd.opened(str(child.ready["address"]), count)
        try:
            return await _measured(options, child, crowd, count)
        finally:
            crowd.close()


async def _measured(options: argparse.Namespace, child: Child, crowd: Crowd, count: int) -> _Found:
    crowd.start()
    started_at = time.perf_counter()
    async with asyncio.timeout(options.seconds - 2 * MARGIN_S):
        await crowd.begun()
    begun_s = time.perf_counter() - started_at
    await asyncio.sleep(max(0.0, START_S - begun_s))
    crowd.forget()
    cpu_s, began = child.cpu_s(), time.perf_counter()
    await asyncio.sleep(options.seconds - max(START_S, begun_s) - MARGIN_S)
    took_s = time.perf_counter() - began
    gaps_s = crowd.gaps_s()
    return _Found(
        begun_s=begun_s,
        gap_p50_s=percentile(gaps_s, 0.5),
        gap_p99_s=percentile(gaps_s, 0.99),
        delivered=crowd.tokens() / (took_s * options.rate * count),
        server_share=(child.cpu_s() - cpu_s) / took_s,
    )


def _add(report: Report, name: str, found: _Found) -> None:
    report.add(f"{name}: all have begun", found.begun_s, unit="s")
    report.add(f"{name}: gap, median", 1e3 * found.gap_p50_s, unit="ms")
    report.add(f"{name}: gap, p99", 1e3 * found.gap_p99_s, unit="ms")
    report.add(f"{name}: delivered", found.delivered)
    report.add(f"{name}: server's share of its core", found.server_share)
    print(
        f"{name}: all have begun after {found.begun_s:.2f} s, "
        f"gap {1e3 * found.gap_p50_s:.1f} ms, p99 {1e3 * found.gap_p99_s:.1f} ms, "
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
