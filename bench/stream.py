"""How fast the service forwards deltas, compared with a bare servicer that writes the same deltas.

Each server is one process on core 0; a reader that only counts deltas is on core 1. Rounds
alternate between the arms. The bench reports deltas per second, and also the server's processor
time per delta: it measures the same cost, and a busy machine disturbs it less. The service joins
deltas when it is behind, as it is here; one message then counts as all of them.

In "precall, by steps", the event loop runs after each piece of the scripted engine, as it does
with a real engine, whose pieces come one at a time. In "precall", the engine never pauses.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import pstats
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from bench.h2 import Reader
from bench.process import Child, started
from bench.report import AtLeast, Report
from precall.v1 import agent_pb2, content_pb2, turn_pb2
from precall_service.domain.json import JsonObject

TEXT = " word"
PATH = "/precall.v1.AgentService/Converse"


class DeltaReader(Reader):
    """Counts a message of joined deltas as so many, and any other message as one."""

    def arrived(self, stream: int, message: bytes) -> int:
        """As `Reader.arrived`."""
        frame = agent_pb2.ConverseResponse.FromString(message)
        return len(frame.text_delta.text) // len(TEXT) or 1


ARMS = (
    ("bare", "bench.arms.bare_grpc", 0, False),
    ("precall", "bench.arms.scripted", 4, False),
    ("precall, by steps", "bench.arms.scripted", 4, True),
)
"""Name; module; how many messages of a turn are no deltas and count as one each (turn and step
started, step and turn completed); whether the scripted engine pauses after each piece."""
SETTLE_S = 0.2
"""Time for a server to clean up the conversations of a round before the next arm starts."""

OPEN = agent_pb2.ConverseRequest(
    sequence=1, open=agent_pb2.OpenConversation(client_name="bench")
).SerializeToString()
START = agent_pb2.ConverseRequest(
    sequence=2,
    start_turn=turn_pb2.StartTurn(
        turn_id="turn-1", content=[content_pb2.ContentPart(text="Go on.")]
    ),
).SerializeToString()


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One server and the connections to it."""

    child: Child
    readers: list[DeltaReader]
    calls: int
    """Conversations per connection."""
    deltas_a_turn: int
    opening: bytes
    """The frame that opens a conversation."""

    @classmethod
    async def connect(
        cls,
        child: Child,
        *,
        connections: int,
        calls: int,
        deltas_a_turn: int,
        opening: bytes = OPEN,
    ) -> Self:
        """Opens the connections to a ready server."""
        address = str(child.ready["address"])
        return cls(
            child=child,
            readers=[await DeltaReader.connect(address) for _ in range(connections)],
            calls=calls,
            deltas_a_turn=deltas_a_turn,
            opening=opening,
        )

    async def round(self) -> Round:
        """Opens conversations, runs one turn in each, and cancels their calls."""
        address = str(self.child.ready["address"])
        streams = [(reader, reader.open(self.calls, address, PATH)) for reader in self.readers]
        self._send(streams, self.opening)
        for reader in self.readers:
            await reader.read(self.calls)
        cpu_before, began = self.child.cpu_s(), time.perf_counter()
        own_before = time.process_time()
        self._send(streams, START)
        for reader in self.readers:
            await reader.read(self.calls * self.deltas_a_turn)
        took, cpu = time.perf_counter() - began, self.child.cpu_s() - cpu_before
        own = time.process_time() - own_before
        for reader, ids in streams:
            for stream in ids:
                reader.cancel(stream)
        await asyncio.sleep(SETTLE_S)
        deltas = len(self.readers) * self.calls * self.deltas_a_turn
        return Round(
            rate=deltas / took,
            cpu_us=1e6 * cpu / deltas,
            server_share=cpu / took,
            reader_share=own / took,
        )

    def close(self) -> None:
        """Closes the connections."""
        for reader in self.readers:
            reader.close()

    @staticmethod
    def _send(streams: list[tuple[DeltaReader, list[int]]], message: bytes) -> None:
        for reader, ids in streams:
            for stream in ids:
                reader.send(stream, message)


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """The figures of one arm: deltas per second, CPU per delta, and how busy each side was."""

    rate: float
    cpu_us: float
    server_share: float
    reader_share: float


SIZES = {
    "cpu": {"conversations": 64, "connections": 8, "deltas": 500, "rounds": 11},
    "quick": {"conversations": 16, "connections": 4, "deltas": 50, "rounds": 2},
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this bench."""
    parser.add_argument("--conversations", type=int)
    parser.add_argument("--connections", type=int)
    parser.add_argument("--deltas", type=int, help="deltas in a turn")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--profile", type=_absolute, help="profile the service into this file")


async def run(options: argparse.Namespace, report: Report) -> None:
    """Runs the bench and adds its samples to the report."""
    cores = sorted(os.sched_getaffinity(0))
    server_core, reader_core = cores[0], cores[-1]
    os.sched_setaffinity(0, {reader_core})
    try:
        async with AsyncExitStack() as stack:
            arms: dict[str, Arm] = {}
            for name, module, extra, ticks in ARMS:
                config: JsonObject = {"deltas": options.deltas, "text": TEXT, "ticks": ticks}
                child = await stack.enter_async_context(started(module, config, core=server_core))
                arms[name] = await Arm.connect(
                    child,
                    connections=options.connections,
                    calls=options.conversations // options.connections,
                    deltas_a_turn=options.deltas + extra,
                )
                stack.callback(arms[name].close)
            await _rounds(arms, options.rounds, report)
            if options.profile is not None:
                await _profile(arms["precall"], options.profile)
    finally:
        os.sched_setaffinity(0, set(cores))


async def _rounds(arms: dict[str, Arm], rounds: int, report: Report) -> None:
    for number in range(rounds + 1):
        for name, arm in arms.items():
            one = await arm.round()
            if number == 0:
                continue  # the first round warms up
            report.add(name, one.rate, unit="deltas/s")
            report.add(f"{name}, CPU per delta", one.cpu_us, unit="us")
            report.add(f"{name}, server's share of its core", one.server_share)
            report.add(f"{name}, reader's share of its core", one.reader_share)
            print(f"round {number}: {name} {one.rate:,.0f} deltas/s, {one.cpu_us:.1f} us each")
        if number:
            _compare(report)


def _compare(report: Report) -> None:
    for name in ("precall", "precall, by steps"):
        ratio = f"deltas/s: {name} / bare"
        report.ratio(ratio, name, "bare")
        report.judge(ratio, AtLeast(0.7))
        own, bare = f"{name}, CPU per delta", "bare, CPU per delta"
        report.ratio(f"CPU per delta: bare / {name}", bare, own)
    report.round_ended()


async def _profile(arm: Arm, path: Path) -> None:
    await arm.child.ask("start_profile")
    await arm.round()
    await arm.child.ask("end_profile", path=str(path))
    pstats.Stats(str(path)).sort_stats("tottime").print_stats(25)


def _absolute(path: str) -> Path:
    return Path(path).resolve()
