"""Agents that together need twice the KV cache: the service against today's loop.

Both arms have the same model, KV cache, batch, arguments of vLLM and agents. Each agent has its own
long prompt, so that no prefix is shared, and a fixed number of steps. Each step but the last makes
a call of fixed length, and the tools sleep. In today's loop, the `tool_choice` of each request
fixes the number of steps. precall applies a turn's tool choice to its first step only, so its
engine is wrapped here to ask for a call in every step but the last. Rounds of the two arms
alternate, each with its own server.

The gap runs from a tool's result in the client to the first token that AsyncLLM yields for the next
step; the same code records that token in both servers. The gap seen by the client starts at the
same result and ends at the first output that the client receives. If the step begins with a call,
that output is the call's name, which both servers send once the model has written it completely.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
from typing import Any, cast

import openai

import precall
from bench import served
from bench.agents import Plan, Run, Workload, plans, run_openai, run_precall
from bench.process import Child
from bench.report import AtMost, Report
from bench.stats import percentile

WARM_UPS = 6
"""Turns that are run first and not measured. They warm the engine up, and they teach the service
how much such turns grow, which it knows on a server that has run for a minute."""

ARMS = ("precall", "today's loop")

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
    arms = served.served(options, block_size=options.block_size, kv_tokens=kv_tokens)
    calls = options.steps - 1
    done = report.count("precall: mean turn")
    for number in range(done, done + options.rounds):
        warm_ups, agents = _plans(options, number)
        async with arms.precall(forced_calls=calls) as server:
            runs, notes = await _precall_round(server, warm_ups, agents)
            _add_round("precall", runs, notes, report)
        async with arms.openai() as server:
            runs, notes = await _openai_round(server, arms.model.display_name, warm_ups, agents)
            _add_round("today's loop", runs, notes, report)
        _compare(report)


def _compare(report: Report) -> None:
    for quantity, most in (
        ("gap, median", 0.2),
        ("gap, p95", None),
        ("gap seen by the client, median", 0.2),
        ("mean turn", 0.7),
        ("all done", 1.0),
    ):
        ratio = f"{quantity}: precall / today's loop"
        report.ratio(ratio, *(f"{arm}: {quantity}" for arm in ARMS))
        if most is not None:
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
    return found[:WARM_UPS], found[WARM_UPS:]


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


async def _precall_round(
    server: Child, warm_ups: list[Plan], agents: list[Plan]
) -> tuple[list[Run], list[dict[str, Any]]]:
    async with precall.Client(str(server.ready["address"])) as client:
        await asyncio.gather(*(run_precall(client, plan) for plan in warm_ups))
        await server.ask("generations")
        runs = await asyncio.gather(*(run_precall(client, plan) for plan in agents))
    return runs, _generations(await server.ask("generations"))


async def _openai_round(
    server: Child, model: str, warm_ups: list[Plan], agents: list[Plan]
) -> tuple[list[Run], list[dict[str, Any]]]:
    address = str(server.ready["address"])
    async with openai.AsyncOpenAI(
        base_url=address, api_key="none", max_retries=0, timeout=600.0
    ) as client:
        await asyncio.gather(*(run_openai(client, model, plan) for plan in warm_ups))
        await server.ask("generations")
        runs = await asyncio.gather(*(run_openai(client, model, plan) for plan in agents))
    return runs, _generations(await server.ask("generations"))


def _add_round(arm: str, runs: list[Run], notes: list[dict[str, Any]], report: Report) -> None:
    """Adds the samples of one round of one arm to the report."""
    gaps = [gap for run in runs for gap in _gaps(run, notes)]
    turns = [run.ended_at - run.began_at for run in runs]
    prompts = sum(note["prompt_tokens"] for note in notes)
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
        f"{arm}: gap {statistics.median(gaps):.3f} s, mean turn {statistics.mean(turns):.1f} s, "
        f"all done {ended - began:.1f} s"
    )


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
