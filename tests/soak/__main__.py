"""Ordinary agents, every attack and deaths of the engine, over and over; then nothing may be left.

The server is a process of its own, on an engine that is only a clock. A cycle has each attack once,
while agents take turns with tools, cancel some, and leave in the middle of others. After each cycle
all clients leave, and the server must be as it was: every count at zero, and its open files as
after the first cycle. What it has allocated must be flat over the cycles, without what gRPC loses
of calls that are cut off. Its resident memory may not grow beyond its peak in the first ones:
allocators keep much of what was in use at a peak.
Ends with status 1 if something is not so.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import statistics
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import cast

os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # read when grpc is imported

import precall
from bench.allocated import EXACT
from bench.process import Child, started
from precall_service.domain.json import JsonObject
from tests.support.attacks import ATTACKS

AGENTS = 24
ATTACK_S = 8.0
TURN_S = 60.0
"""The longest time that a turn may take, of which some waits for an engine that died."""
SETTLE_S = 30.0
"""How long the server may take to be as it was."""
GROWTH_MAX = 0.03
"""By how much what is allocated may grow from the first cycles to the last, as a fraction."""
COMPARED_CYCLES = 3
"""How many cycles are the first, and how many the last. The very first one counts as neither: what
is made when it is first needed is made in it."""
LOST_AT_A_CUT = 10
"""Bytes that gRPC loses for each call that its client cuts off, on average of these attacks. It is
88 bytes, but only if the call was cut off in certain moments (grpc/grpc#43360)."""
CONFIG: JsonObject = {"text": " word", "tokens": 40, "step_s": 0.02, "sequences": 32}


@dataclass(slots=True)
class Soak:
    """One server, and what was seen of it."""

    server: Child
    outcomes: Counter[str] = field(default_factory=Counter[str])
    problems: list[str] = field(default_factory=list[str])
    resident_bytes: list[int] = field(default_factory=list[int])
    """At rest, after each cycle."""
    peak_bytes: int = 0
    """The most resident memory under attack, in the first cycles."""
    allocated: list[dict[str, int]] = field(default_factory=list[dict[str, int]])
    """What was allocated at rest after each cycle, by kind, without what gRPC loses."""
    files: int = 0

    @property
    def address(self) -> str:
        """Where the server listens."""
        return str(self.server.ready["address"])

    async def cycle(self) -> None:
        """Has every attack once, beside agents, and then nothing."""
        agents = [asyncio.create_task(self._agent(number)) for number in range(AGENTS)]
        try:
            for name in ATTACKS:
                config: JsonObject = {"address": self.address, "attacks": [name]}
                async with started("bench.arms.attacker", config):
                    await asyncio.sleep(ATTACK_S / 2)
                    await self.server.ask("die")
                    await asyncio.sleep(ATTACK_S / 2)
                    if len(self.resident_bytes) <= COMPARED_CYCLES:
                        self.peak_bytes = max(self.peak_bytes, self.server.anonymous_bytes())
                print(f"  {name}: {self._told()}", flush=True)
        finally:
            for agent in agents:
                agent.cancel()
            await asyncio.wait(agents)
        for agent in agents:
            if not agent.cancelled() and (error := agent.exception()) is not None:
                self.problems.append(f"an agent met {type(error).__name__}: {error}")

    async def at_rest(self, idle: JsonObject) -> None:
        """Waits until the server is as it was, and notes what is not."""
        if not self.allocated:  # it has opened what it opens when it is first needed
            self.files = self.server.usage.num_fds()
        until = time.monotonic() + SETTLE_S
        while True:
            counts, opened = await self.server.ask("counts"), self.server.usage.num_fds()
            left = {
                name: n for name, n in counts.items() if cast("int", n) > cast("int", idle[name])
            }
            if opened > self.files:
                left["open files"] = opened - self.files
            if not left:
                break
            if time.monotonic() > until:
                self.problems.append(f"{SETTLE_S:g} s after the last client left: {left}")
                print(*cast("list[str]", (await self.server.ask("tasks"))["tasks"]), sep="\n")
                break
            await asyncio.sleep(0.5)
        found = cast("dict[str, int]", await self.server.ask("allocated"))
        cut_off = cast("dict[str, int]", await self.server.ask("totals"))["calls cut off"]
        found["bytes of malloc"] -= LOST_AT_A_CUT * cut_off
        self.allocated.append(found)
        self.resident_bytes.append(self.server.anonymous_bytes())

    def growth(self) -> dict[str, float]:
        """By how much what is allocated grew, by kind; empty if there were too few cycles."""
        first, last = self.allocated[1:][:COMPARED_CYCLES], self.allocated[-COMPARED_CYCLES:]
        if len(self.allocated) <= 2 * COMPARED_CYCLES:
            return {}
        return {
            kind: statistics.median(each[kind] for each in last)
            / statistics.median(each[kind] for each in first)
            - 1
            for kind in self.allocated[0]
        }

    async def _agent(self, number: int) -> None:
        """Takes turns for as long as it may, as an ordinary user of the client."""
        source = random.Random(number)
        while True:
            try:
                await self._conversation(source)
            except precall.PrecallError as error:
                self.outcomes[f"refused {type(error).__name__}"] += 1
                await asyncio.sleep(0.5)

    async def _conversation(self, source: random.Random) -> None:
        client = precall.Client(self.address, tenant="agents")
        client.add_tool(look_up, read_only=True)
        async with client, client.conversation() as conversation:
            for _ in range(source.randrange(1, 4)):
                text = source.choice(("speak", "call look_up"))
                limit_s = source.random() if source.random() < 0.2 else TURN_S
                try:
                    async with asyncio.timeout(limit_s):
                        await conversation.ask(text)
                except TimeoutError:
                    if limit_s == TURN_S:
                        self.problems.append(f"a turn ({text}) has no ending after {TURN_S:g} s")
                    self.outcomes["left"] += 1
                    return  # in the middle of the turn
                self.outcomes["answered"] += 1

    def _told(self) -> str:
        memory = self.server.anonymous_bytes() / (1 << 20)
        outcomes = ", ".join(f"{count} {name}" for name, count in self.outcomes.most_common())
        return f"{memory:.0f} MiB; turns so far: {outcomes}"


async def look_up() -> str:
    """Looks something up."""
    await asyncio.sleep(0.05)
    return "found"


async def main(minutes: float) -> int:
    """Soaks a server. Returns 0 if nothing was left and nothing went wrong."""
    until = time.monotonic() + 60 * minutes
    async with started("bench.arms.attacked", CONFIG, environ=EXACT) as server:
        soak = Soak(server)
        await _warm_up(soak)
        idle = await server.ask("counts")
        cycles = 0
        while cycles < 2 or time.monotonic() < until:
            cycles += 1
            print(f"cycle {cycles}", flush=True)
            await soak.cycle()
            await soak.at_rest(idle)
            rest = f"{soak.resident_bytes[-1] >> 20} MiB, {soak.allocated[-1]}"
            print(f"  at rest: {rest}", flush=True)
        longest_s = float(str((await server.ask("pause"))["longest_s"]))
    growth = soak.growth()
    for kind, by in growth.items():
        if by > GROWTH_MAX:
            soak.problems.append(f"{kind}: {by:.1%} more in the last cycles than in the first")
    if (rests_at := soak.resident_bytes[-1]) > soak.peak_bytes:
        soak.problems.append(
            f"{rests_at >> 20} MiB are resident at rest, more than at the first cycles' peak"
        )
    told = ", ".join(f"{kind} {by:+.1%}" for kind, by in growth.items()) or "too few to compare"
    print(
        f"{cycles} cycles: {told}; resident at rest {soak.resident_bytes[0] >> 20} to "
        f"{rests_at >> 20} MiB, at the first cycles' peak {soak.peak_bytes >> 20} MiB; "
        f"longest pause {1e3 * longest_s:.0f} ms"
    )
    for problem in dict.fromkeys(soak.problems):
        print(f"PROBLEM: {problem}")
    return 1 if soak.problems else 0


async def _warm_up(soak: Soak) -> None:
    """Runs one turn, so that nothing is built for the first time later."""
    async with precall.Client(soak.address) as client, client.conversation() as conversation:
        await conversation.ask("speak")
    await soak.server.ask("grow_tables")
    await asyncio.sleep(1.0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="at least two cycles are run")
    sys.exit(asyncio.run(main(parser.parse_args().minutes)))
