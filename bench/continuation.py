"""The time from a tool's result to the model's next token, on an idle server.

Compared with a bare AsyncLLM: the same process generates the same step once more as a plain
request, from the same tokens and the same cached prefix. The service is timed from the handler's
answer in its agent loop to the first piece that this loop gets. The plain request is timed from its
call to its first output.

Compared with today's loop: the time that the client sees, from the tool's result to the first piece
of the next step. Rounds of the two servers alternate, with one engine at a time.
"""

from __future__ import annotations

import argparse
from typing import Any, cast

import openai

import precall
from bench import served
from bench.agents import Plan, Workload, plans, run_openai, run_precall
from bench.process import Child
from bench.report import AtMost, Report
from bench.stats import summary

CALLS = 1
WARM_UPS = 3

SIZES = {
    "cpu": {
        "trials": 15,
        "rounds": 2,
        "prompt_words": 600,
        "result_words": 80,
        "max_num_seqs": 16,
        "max_model_len": 4096,
        "block_size": 32,
    },
    "gpu": {
        "trials": 50,
        "rounds": 2,
        "prompt_words": 3000,
        "result_words": 150,
        "max_num_seqs": 64,
        "max_model_len": 16384,
        "block_size": 16,
    },
    "quick": {
        "trials": 2,
        "rounds": 1,
        "prompt_words": 50,
        "result_words": 10,
        "max_num_seqs": 16,
        "max_model_len": 2048,
        "block_size": 32,
    },
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this bench."""
    served.add_arguments(parser)
    served.add_block_size(parser)
    parser.add_argument("--trials", type=int, help="trials in each round")
    parser.add_argument("--rounds", type=int, help="rounds; each starts both servers")
    parser.add_argument("--prompt-words", type=int)
    parser.add_argument("--result-words", type=int)


async def run(options: argparse.Namespace, report: Report) -> None:
    """Runs the bench and adds its samples to the report."""
    arms = served.served(options, block_size=options.block_size)
    done = report.count("bare request") // options.trials
    for number in range(done, done + options.rounds):
        trials = _trials(options, number)
        async with arms.precall(forced_calls=CALLS) as server:
            await _precall_round(server, trials, report)
        async with arms.openai() as server:
            await _openai_round(server, arms.model.display_name, trials, report)
        _compare(report)


def _compare(report: Report) -> None:
    name = "result to next token: precall / bare request"
    report.ratio(name, "precall, in the server", "bare request")
    report.judge(name, AtMost(1.10))
    report.ratio(
        "result to next token, seen by the client: precall / today's loop",
        "precall, seen by the client",
        "today's loop, seen by the client",
    )
    report.round_ended()


def _trials(options: argparse.Namespace, number: int) -> list[Plan]:
    work = Workload(
        agents=WARM_UPS + options.trials,
        steps=CALLS + 1,
        prompt_words=options.prompt_words,
        result_words=options.result_words,
        step_tokens_max=64,
        tool_s=(0.05, 0.05),
        seed=number,
    )
    return plans(work)


async def _precall_round(server: Child, trials: list[Plan], report: Report) -> None:
    async with precall.Client(str(server.ready["address"])) as client:
        for index, plan in enumerate(trials):
            run = await run_precall(client, plan)
            gaps = cast(list[float], (await server.ask("gaps"))["gaps_s"])
            notes = await server.ask("generations")
            bare = await server.ask("continued")
            if index < WARM_UPS:
                continue
            second = cast(list[dict[str, Any]], notes["generations"])[-1]
            report.add("precall, seen by the client", 1e3 * run.seen_gaps_s[0], unit="ms")
            report.add("precall, in the server", 1e3 * gaps[0], unit="ms")
            report.add("bare request", 1e3 * float(str(bare["first_token_s"])), unit="ms")
            report.add("prompt of the step", second["prompt_tokens"], unit="tokens")
            report.add("cached of it, precall", second["cached_tokens"], unit="tokens")
            cached = float(str(bare["cached_tokens"]))
            report.add("cached of it, bare request", cached, unit="tokens")
    print(f"precall: {summary(report.samples('precall, in the server'))} ms in the server, "
          f"bare request {summary(report.samples('bare request'))} ms")  # fmt: skip


async def _openai_round(server: Child, model: str, trials: list[Plan], report: Report) -> None:
    name = "today's loop, seen by the client"
    async with openai.AsyncOpenAI(
        base_url=str(server.ready["address"]), api_key="none", max_retries=0
    ) as client:
        for index, plan in enumerate(trials):
            run = await run_openai(client, model, plan)
            notes = await server.ask("generations")
            if index < WARM_UPS:
                continue
            second = cast(list[dict[str, Any]], notes["generations"])[-1]
            report.add(name, 1e3 * run.seen_gaps_s[0], unit="ms")
            report.add("prompt of the step, today's loop", second["prompt_tokens"], unit="tokens")
            report.add("cached of it, today's loop", second["cached_tokens"], unit="tokens")
    print(f"today's loop: {summary(report.samples(name))} ms, seen by the client")
