"""Early runs with a predictor that is always right: the most that they can save.

A prompt is first run without speculation, which shows the call that the model makes (greedily), and
the time G to write it. Then the predictor knows the call and proposes it when the step begins. The
same turn runs with speculation off and on, without drafts, with tools that take 0.1 to 10 times G.
They only sleep, in the client's process. A turn is measured from the start of its first step to
that of its second.

The saving of a pair is compared with what the formula allows for its own times (bench/theory.py).
"""

from __future__ import annotations

import argparse

import precall
from bench import speculating
from bench.bfcl_prompts import ToolPrompt, tool_prompts
from bench.process import Child
from bench.report import AtLeast, Report
from bench.speculating import ENGINE, ENGINE_ON_GPU, Pair, run_pair
from bench.tool_turns import EARLY_RUNS, OFF, TurnTimes, run_turn

TARGET = 0.95

SIZES = {
    "cpu": {"prompts": 3, "factors": "0.1,0.3,0.6,1,1.7,3,10", **ENGINE},
    "gpu": {"prompts": 6, "factors": "0.3,0.6,1,1.7,3", **ENGINE_ON_GPU},
    "quick": {"prompts": 1, "factors": "0.3,1", **ENGINE},
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this bench."""
    speculating.add_arguments(parser)
    parser.add_argument("--prompts", type=int, help="prompts, each with every tool time")
    parser.add_argument("--factors", help="times of the tools, in units of the generation time")


async def run(options: argparse.Namespace, report: Report) -> None:
    """Runs the bench and adds its samples to the report."""
    factors = [float(text) for text in options.factors.split(",")]
    prompts = tool_prompts(options.prompts)
    async with (
        speculating.speculating(options, "oracle") as server,
        precall.Client(str(server.ready["address"])) as client,
    ):
        for number, prompt in enumerate(prompts):
            recorded = await _recorded(client, server, prompt)
            if not recorded.calls or not recorded.next_at:
                print(f"{prompt.id}: the model came to no call within its limit")
                continue
            for index, factor in enumerate(factors):
                pair = await run_pair(
                    client,
                    server,
                    prompt,
                    tool_s=factor * recorded.generation_s,
                    on_first=(number + index) % 2 == 1,
                    speculation=EARLY_RUNS,
                )
                if pair.complete:
                    _add(report, factor, pair)
            print(f"{prompt.id}: G = {recorded.generation_s:.2f} s, {len(recorded.calls)} calls")
        _judge(report, factors)
        report.round_ended()


async def _recorded(client: precall.Client, server: Child, prompt: ToolPrompt) -> TurnTimes:
    """Runs the turn without speculation, and tells the oracle what the model did.

    It runs twice, since the second run finds its prompt in the KV cache, as the measured ones do.
    """
    await run_turn(client, prompt, tool_s=0.0, speculation=OFF)
    recorded = await run_turn(client, prompt, tool_s=0.0, speculation=OFF)
    await server.ask("expect", text=prompt.text, steps=[recorded.calls])
    return recorded


def _add(report: Report, factor: float, pair: Pair) -> None:
    report.add(_name(factor, "predictions that came true"), pair.acceptance)
    if pair.acceptance < 1:
        return  # the model did not repeat itself
    report.add(_name(factor, "off, waited for the tool"), pair.off.waited_s, unit="s")
    report.add(_name(factor, "on, waited for the tool"), pair.on.waited_s, unit="s")
    report.add(_name(factor, "saved / allowed"), pair.hidden_s / pair.allowed_s)
    report.add(_name(factor, "saved of the whole"), pair.saved_s / pair.off_s)
    allowed = pair.timing.saved_fraction(1.0)
    report.add(_name(factor, "saved of the whole, by the formula"), allowed)
    report.add("time to write the call: on / off", pair.on.generation_s / pair.off.generation_s)
    report.add("lead", pair.timing.lead_s, unit="s")


def _judge(report: Report, factors: list[float]) -> None:
    for factor in factors:
        report.judge(_name(factor, "saved / allowed"), AtLeast(TARGET))


def _name(factor: float, what: str) -> str:
    return f"T = {factor:g} G: {what}"
