"""Agents that together need twice the KV cache: the service against today's loop.

All arms have the same model, KV cache, batch, arguments of vLLM and agents. Each agent has its own
long prompt, so that no prefix is shared, and a fixed number of steps. Each step but the last makes
a call of fixed length, and the tools sleep. In today's loop, the `tool_choice` of each request
fixes the number of steps. precall applies a turn's tool choice to its first step only, so its
engine is wrapped here to ask for a call in every step but the last. Rounds of the arms alternate,
each with its own server.

Two more arms are what an expert would do. One is today's loop with a cap on the agents that run at
once, which somebody has to find: `--cap`. The other is a proxy that admits whole agents and not
requests, such as ThunderAgent. It is not part of this repository: start it yourself in front of
http://127.0.0.1:PORT/v1, where the bench starts today's server for it, and name both with
`--proxy-url` and `--proxy-port`. Without an address this arm is skipped.

With `--before`, the service is compared with itself at another commit instead, and with nothing
else.

The gap runs from a tool's result in the client to the first token that AsyncLLM yields for the next
step; the same code records that token in all servers. The gap seen by the client starts at the
same result and ends at the first output that the client receives. If the step begins with a call,
that output is the call's name, which all servers send once the model has written it completely.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast

import openai

import precall
from bench import served
from bench.agents import Plan, Run, Workload, plans, run_openai, run_precall
from bench.order import rotated
from bench.process import Child
from bench.report import AtMost, Report
from bench.stats import percentile
from bench.trees import ROOT, checked_out

WARM_UPS = 6
"""Turns that are run first and not measured. They warm the engine up, and they teach the service
how much such turns grow, which it knows on a server that has run for a minute."""

PROXY_PORT = 8100

PRECALL, TODAY, CAPPED, PROXY = "precall", "today's loop", "with a cap", "proxy"
BEFORE = "before"

TARGETS = {
    TODAY: {
        "gap, median": 0.2,
        "gap seen by the client, median": 0.2,
        "mean turn": 0.7,
        "all done": 1.0,
    },
    BEFORE: {"mean turn": 1.05, "all done": 1.05},
}
"""By arm: what the service may need at most, as a fraction of what that arm needs."""
QUANTITIES = (
    "gap, median",
    "gap, p95",
    "gap seen by the client, median",
    "mean turn",
    "all done",
)

SIZES = {
    "cpu": {
        "agents": 16,
        "rounds": 2,
        "steps": 5,
        "prompt_words": 600,
        "result_words": 40,
        "tool_least_s": 0.5,
        "tool_most_s": 2.0,
        "max_num_seqs": 16,
        "max_model_len": 2048,
        "block_size": 32,
    },
    "gpu": {
        "agents": 48,
        "rounds": 3,
        "steps": 5,
        "prompt_words": 6000,
        "result_words": 150,
        "tool_least_s": 0.5,
        "tool_most_s": 2.0,
        "max_num_seqs": 64,
        "max_model_len": 16384,
        "block_size": 16,
    },
    "quick": {
        "agents": 4,
        "rounds": 1,
        "steps": 3,
        "prompt_words": 60,
        "result_words": 10,
        "tool_least_s": 0.1,
        "tool_most_s": 0.2,
        "max_num_seqs": 16,
        "max_model_len": 768,
        "block_size": 32,
    },
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this bench."""
    served.add_arguments(parser)
    served.add_block_size(parser)
    parser.add_argument("--agents", type=int)
    parser.add_argument("--rounds", type=int, help="rounds of each arm")
    parser.add_argument("--steps", type=int)
    parser.add_argument(
        "--cap", type=int, help="agents that run at once in the arm with a cap (default: half)"
    )
    parser.add_argument(
        "--cold",
        action="store_const",
        const=True,
        help="measure the first turns of a fresh server; without it, six turns run first",
    )
    parser.add_argument(
        "--before", metavar="COMMIT", help="compare the service with itself at this commit"
    )
    parser.add_argument("--proxy-url", help="address of a proxy, such as http://127.0.0.1:9000/v1")
    parser.add_argument(
        "--proxy-port",
        type=int,
        help=f"where the bench starts today's server for the proxy (default: {PROXY_PORT})",
    )
    parser.add_argument("--prompt-words", type=int)
    parser.add_argument("--result-words", type=int)
    parser.add_argument("--tool-least-s", type=float)
    parser.add_argument("--tool-most-s", type=float)
    parser.add_argument(
        "--kv-share",
        type=float,
        default=0.5,
        help="size of the KV cache, as a fraction of what all agents together need",
    )


async def run(options: argparse.Namespace, report: Report) -> None:
    """Runs the bench and adds its samples to the report."""
    if not report.count("KV cache"):
        report.add("KV cache", await _kv_cache_tokens(options), unit="tokens")
    kv_tokens = int(report.samples("KV cache")[0])
    served_arms = served.served(options, block_size=options.block_size, kv_tokens=kv_tokens)
    arms = _arms(options)
    done = report.count("precall: mean turn")
    with checked_out(options.before) if options.before else nullcontext(ROOT) as before:
        for number in range(done, done + options.rounds):
            for arm in rotated(arms, number):
                runs, notes = await _round(arm, options, served_arms, number, before)
                _add_round(arm, runs, notes, report)
            _compare(report, arms[1:])


def _arms(options: argparse.Namespace) -> list[str]:
    if options.before:
        return [PRECALL, BEFORE]
    if options.proxy_url is None:
        print("no --proxy-url: the arm of a proxy that admits by program is skipped")
        return [PRECALL, TODAY, CAPPED]
    return [PRECALL, TODAY, CAPPED, PROXY]


def _compare(report: Report, others: list[str]) -> None:
    for other in others:
        for quantity in QUANTITIES:
            under = f"{other}: {quantity}"
            over = f"{PRECALL}: {quantity}"
            if report.count(under) != report.count(over):
                continue  # a proxy hides the gap in the server, or a kept result lacks the arm
            ratio = f"{quantity}: precall / {other}"
            report.ratio(ratio, over, under)
            if (most := TARGETS.get(other, {}).get(quantity)) is not None:
                report.judge(ratio, AtMost(most))
    report.round_ended()


def _plans(options: argparse.Namespace, number: int) -> tuple[list[Plan], list[Plan]]:
    work = Workload(
        agents=options.agents + WARM_UPS,
        steps=options.steps,
        prompt_words=options.prompt_words,
        result_words=options.result_words,
        step_tokens_max=48,
        tool_s=(options.tool_least_s, options.tool_most_s),
        seed=number,
    )
    found = plans(work)
    return [] if options.cold else found[:WARM_UPS], found[WARM_UPS:]


async def _kv_cache_tokens(options: argparse.Namespace) -> int:
    """The size of the KV cache in tokens: `kv_share` of what all agents need, measured on one."""
    _, agents = _plans(options, 0)
    arms = served.served(options, block_size=options.block_size)
    async with (
        arms.precall(forced_calls=options.steps - 1) as server,
        precall.Client(str(server.ready["address"])) as client,
    ):
        await run_precall(client, agents[0])
        last = _generations(await server.ask("generations"))[-1]
    need = last["prompt_tokens"] + last["output_tokens"]
    return int(options.kv_share * options.agents * need)


async def _round(
    arm: str, options: argparse.Namespace, arms: served.Served, number: int, before: Path
) -> tuple[list[Run], list[dict[str, Any]]]:
    """Runs all agents in one arm, on a fresh server. `before` has the files of that arm."""
    warm_ups, agents = _plans(options, number)
    if arm in (PRECALL, BEFORE):
        tree = before if arm == BEFORE else ROOT
        async with (
            arms.precall(forced_calls=options.steps - 1, tree=tree) as server,
            precall.Client(str(server.ready["address"])) as client,
        ):
            return await _measured(server, lambda plan: run_precall(client, plan), warm_ups, agents)
    port = (options.proxy_port or PROXY_PORT) if arm == PROXY else None
    places = options.cap or options.agents // 2
    cap = asyncio.Semaphore(places) if arm == CAPPED else None
    async with arms.openai(port=port) as server:
        address = options.proxy_url if arm == PROXY else str(server.ready["address"])
        async with openai.AsyncOpenAI(
            base_url=address, api_key="none", max_retries=0, timeout=600.0
        ) as client:
            model = arms.model.display_name
            return await _measured(
                server,
                lambda plan: run_openai(client, model, plan, cap=cap, by_program=arm == PROXY),
                warm_ups,
                agents,
            )


async def _measured(
    server: Child,
    run_agent: Callable[[Plan], Awaitable[Run]],
    warm_ups: list[Plan],
    agents: list[Plan],
) -> tuple[list[Run], list[dict[str, Any]]]:
    await asyncio.gather(*map(run_agent, warm_ups))
    await server.ask("generations")
    runs = await asyncio.gather(*map(run_agent, agents))
    return runs, _generations(await server.ask("generations"))


def _add_round(arm: str, runs: list[Run], notes: list[dict[str, Any]], report: Report) -> None:
    """Adds the samples of one round of one arm to the report."""
    gaps = [gap for run in runs for gap in _gaps(run, notes)] if _named(arm, runs, notes) else []
    turns = [run.ended_at - run.began_at for run in runs]
    prompts = sum(note["prompt_tokens"] for note in notes)
    if gaps:
        report.add(f"{arm}: gap, median", statistics.median(gaps), unit="s")
        report.add(f"{arm}: gap, p95", percentile(gaps, 0.95), unit="s")
    report.add(
        f"{arm}: gap seen by the client, median",
        statistics.median(gap for run in runs for gap in run.seen_gaps_s),
        unit="s",
    )
    report.add(f"{arm}: mean turn", statistics.mean(turns), unit="s")
    report.add(f"{arm}: turn, p95", percentile(turns, 0.95), unit="s")
    began, ended = min(run.began_at for run in runs), max(run.ended_at for run in runs)
    report.add(f"{arm}: all done", ended - began, unit="s")
    report.add(f"{arm}: cached", sum(note["cached_tokens"] for note in notes) / prompts)
    report.add(f"{arm}: generated", sum(note["output_tokens"] for note in notes), unit="tokens")
    print(
        f"{arm}: gap {f'{statistics.median(gaps):.3f} s' if gaps else 'unknown'}, mean turn "
        f"{statistics.mean(turns):.1f} s, all done {ended - began:.1f} s"
    )


def _named(arm: str, runs: list[Run], notes: list[dict[str, Any]]) -> bool:
    """Whether the server's generations have the ids of the steps. A proxy may not pass them on."""
    if arm != PROXY:
        return True
    ids = [note["request_id"] for note in notes]
    return all(any(each.startswith(step) for each in ids) for run in runs for step in run.steps)


def _gaps(run: Run, notes: list[dict[str, Any]]) -> list[float]:
    """The seconds from each result to the first token of the next step."""
    own = [note for note in notes if any(note["request_id"].startswith(at) for at in run.steps)]
    own.sort(key=lambda note: note["asked_at"])
    assert len(own) == run.plan.steps, f"{len(own)} generations of {run.plan.agent_id}"
    return [
        note["first_at"] - result_at
        for note, result_at in zip(own[1:], run.results_at, strict=True)
    ]


def _generations(answer: Any) -> list[dict[str, Any]]:
    return cast(list[dict[str, Any]], answer["generations"])
