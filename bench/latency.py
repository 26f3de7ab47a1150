"""A target for the time of a token: what it keeps, and what it costs.

More agents than the target allows ask for plain text, one turn after the other. A first service has
no target: it shows how long a token takes with one agent and with all. A second one has the target
between the two, their geometric mean. Turns count if they began after the service had had time to
find how many turns may run. A turn's time of a token is seen by its client: from the first text to
the last, in the tokens that come after the first.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import statistics
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import precall
from bench import served, speculating
from bench.report import AtMost, Report
from bench.stats import percentile
from precall_service.domain.json import JsonObject

SIZES = {
    "cpu": {
        "agents": 16,
        "tokens": 128,
        "settle_s": 30.0,
        "window_s": 60.0,
        "rounds": 2,
        "max_num_seqs": 16,
        "max_model_len": 2048,
        "block_size": 32,
    },
    "gpu": {
        "agents": 256,
        "tokens": 512,
        "settle_s": 30.0,
        "window_s": 60.0,
        "rounds": 2,
        "max_num_seqs": 256,
        "max_model_len": 4096,
        "block_size": 16,
    },
    "quick": {
        "agents": 8,
        "tokens": 32,
        "settle_s": 6.0,
        "window_s": 6.0,
        "rounds": 1,
        "max_num_seqs": 16,
        "max_model_len": 2048,
        "block_size": 32,
    },
}
IN_TIME = "with a target: time of a token / target"


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """A turn as its client saw it."""

    began_at: float
    ended_at: float
    token_s: float
    tokens: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this bench."""
    served.add_arguments(parser)
    served.add_block_size(parser)
    parser.add_argument("--agents", type=int, help="agents; each has one turn at a time")
    parser.add_argument("--tokens", type=int, help="tokens of a turn")
    parser.add_argument("--settle-s", type=float, help="time before turns count")
    parser.add_argument("--window-s", type=float, help="time in which turns begin that count")
    parser.add_argument("--rounds", type=int)


async def run(options: argparse.Namespace, report: Report) -> None:
    """Runs the bench and adds its samples to the report."""
    for _ in range(options.rounds):
        async with _serving(options, {}) as client:
            name = "1 agent, no target"
            one = await _agents(client, 1, options, report, name=name)
            name = f"{options.agents} agents, no target"
            free = await _agents(client, options.agents, options, report, name=name)
        target_s = math.sqrt(one * free)
        report.add("target", 1e3 * target_s, unit="ms")
        async with _serving(options, {"token_latency_s": target_s}) as client:
            name = f"{options.agents} agents, with a target"
            kept = await _agents(client, options.agents, options, report, name=name)
            load = (await client.server_info()).load
            assert load is not None, "the arm sets info_counts"
        report.add("with a target: turns at once", load.turns_max)
        report.add(IN_TIME, kept / target_s)
        report.judge(IN_TIME, AtMost(1.05))
        report.ratio(
            "tokens/s, with a target / without",
            f"{name}: tokens/s",
            f"{options.agents} agents, no target: tokens/s",
        )
        report.round_ended()


@asynccontextmanager
async def _serving(
    options: argparse.Namespace, admission: JsonObject
) -> AsyncGenerator[precall.Client]:
    async with (
        speculating.speculating(options, "fork", admission=admission) as server,
        precall.Client(str(server.ready["address"])) as client,
    ):
        yield client


async def _agents(
    client: precall.Client, count: int, options: argparse.Namespace, report: Report, *, name: str
) -> float:
    """Lets so many agents work, and reports their turns. Returns their mean time of a token."""
    loop = asyncio.get_running_loop()
    from_at = loop.time() + options.settle_s
    until_at = from_at + options.window_s
    turns: list[Turn] = []

    async def agent(number: int) -> None:
        while loop.time() < until_at:
            turns.append(await _turn(client, number, options.tokens))

    async with asyncio.TaskGroup() as group:
        for number in range(count):
            group.create_task(agent(number))
    counted = [turn for turn in turns if from_at <= turn.began_at < until_at]
    times_s = [turn.token_s for turn in counted]
    mean_s = statistics.mean(times_s)
    report.add(f"{name}: time of a token", 1e3 * mean_s, unit="ms")
    report.add(f"{name}: time of a token, p95", 1e3 * percentile(times_s, 0.95), unit="ms")
    ended = sum(turn.tokens for turn in turns if from_at <= turn.ended_at < until_at)
    report.add(f"{name}: tokens/s", ended / options.window_s, unit="tokens/s")
    print(f"{name}: {1e3 * mean_s:.1f} ms a token in {len(counted)} turns")
    return mean_s


async def _turn(client: precall.Client, number: int, tokens: int) -> Turn:
    """Runs a turn of plain text, which a limit ends."""
    loop = asyncio.get_running_loop()
    began_at = first_at = last_at = 0.0
    used = 0
    async with client.conversation(speculation=precall.Speculation("off")) as conversation:
        text = f"Write a very long story about the number {number}, in many chapters."
        async for event in conversation.send(
            text, temperature=1.0, max_step_tokens=tokens, max_turn_tokens=tokens
        ):
            match event:
                case precall.TurnStarted():
                    began_at = loop.time()
                case precall.TextDelta():
                    last_at = loop.time()
                    first_at = first_at or last_at
                case precall.TurnCompleted():
                    used = event.report.usage.output_tokens
                case _:
                    pass
    return Turn(
        began_at=began_at,
        ended_at=last_at,
        token_s=(last_at - first_at) / max(1, used - 1),
        tokens=used,
    )
