"""Early runs and verified drafts with a predictor that is always right, against the bound.

A prompt is first run without speculation, which shows the calls of all steps. Then an oracle
proposes each step's calls when the step begins, so their handlers run early and the engine verifies
the calls instead of generating them. The whole turn is measured, from the start of its first step
to the end of its last, with speculation off and on, in turn. The bound follows from the turn
without speculation:

    the time until the model begins to call, in each step that calls
    + one verification for each call
    + the steps that do not call

So the bound has no waits for tools, no tokens of calls, and nothing of the service itself. It has
the time to the first token of each step, and with it that of computing the results of calls.
"""

from __future__ import annotations

import argparse
import statistics
from dataclasses import dataclass

import precall
from bench import speculating
from bench.bfcl_prompts import ToolPrompt, tool_prompts
from bench.process import Child
from bench.report import AtMost, Report
from bench.speculating import ENGINE, ENGINE_ON_GPU
from bench.step_times import StepTimes, steps_of, verification_s
from bench.tool_turns import FORK, OFF, TurnTimes, run_turn

TARGET = 1.1
RATIO = "turn / bound"

SIZES = {
    "cpu": {"prompts": 12, "factor": 0.3, "rounds": 2, **ENGINE},
    "gpu": {"prompts": 12, "factor": 0.3, "rounds": 2, **ENGINE_ON_GPU},
    "quick": {"prompts": 2, "factor": 0.3, "rounds": 1, **ENGINE},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Whole:
    """A whole turn, as its client and the service saw it."""

    times: TurnTimes
    steps: list[StepTimes]

    @property
    def turn_s(self) -> float:
        """From the start of the first step to the end of the last."""
        return self.steps[-1].ended_at - self.steps[0].began_at

    @property
    def shape(self) -> tuple[list[int], str]:
        """What must be equal in two turns that are compared."""
        return [step.tokens for step in self.steps], "".join(self.times.texts)

    def bound_s(self, verified_s: float) -> float:
        """Returns the bound, if this turn ran without speculation."""
        return sum(step.thought_s + step.calls * verified_s for step in self.steps)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this bench."""
    speculating.add_arguments(parser)
    parser.add_argument("--prompts", type=int, help="prompts in each round")
    parser.add_argument("--factor", type=float, help="time of a tool, in units of the message's")
    parser.add_argument("--rounds", type=int)


async def run(options: argparse.Namespace, report: Report) -> None:
    """Runs the bench and adds its samples to the report."""
    async with (
        speculating.speculating(options, "oracle") as server,
        precall.Client(str(server.ready["address"])) as client,
    ):
        for number in range(options.rounds):
            pairs: list[tuple[Whole, Whole]] = []
            for index, prompt in enumerate(tool_prompts(options.prompts)):
                on_first = (number + index) % 2 == 1
                pair = await _pair(client, server, prompt, options.factor, on_first=on_first)
                if pair is not None:
                    pairs.append(pair)
            _add(report, pairs)
            report.round_ended()


async def _pair(
    client: precall.Client, server: Child, prompt: ToolPrompt, factor: float, *, on_first: bool
) -> tuple[Whole, Whole] | None:
    """Returns the turn without speculation and with it; None if the two are not the same turn."""
    await steps_of(server)  # forgets those before
    await _turn(client, server, prompt, 0.0, OFF)  # fills the KV cache
    recorded = await _turn(client, server, prompt, 0.0, OFF)
    if not recorded.times.calls:
        print(f"{prompt.id}: the model came to no call within its limit")
        return None
    await server.ask("expect", text=prompt.text, steps=recorded.times.calls_by_step)
    tool_s = factor * recorded.times.generation_s
    first = await _turn(client, server, prompt, tool_s, FORK if on_first else OFF)
    second = await _turn(client, server, prompt, tool_s, OFF if on_first else FORK)
    off, on = (second, first) if on_first else (first, second)
    if off.shape != on.shape:
        print(f"{prompt.id}: the model did not repeat itself")
        return None
    return off, on


async def _turn(
    client: precall.Client,
    server: Child,
    prompt: ToolPrompt,
    tool_s: float,
    speculation: precall.Speculation,
) -> Whole:
    times = await run_turn(client, prompt, tool_s=tool_s, speculation=speculation, whole=True)
    return Whole(times=times, steps=await steps_of(server))


def _add(report: Report, pairs: list[tuple[Whole, Whole]]) -> None:
    """Adds a round."""
    verified_s = verification_s(step for _, on in pairs for step in on.steps)
    if not verified_s:
        print("nothing was verified: this engine drafts nothing")
        return
    report.add("one verification", 1e3 * verified_s, unit="ms")
    for off, on in pairs:
        calls = sum(step.calls for step in off.steps)
        bound_s = off.bound_s(verified_s)
        report.add("calls of a turn", calls)
        report.add("turn, off", off.turn_s, unit="s")
        report.add("turn, on", on.turn_s, unit="s")
        report.add("bound", bound_s, unit="s")
        before = _sum(on, "thought_s") / _sum(off, "thought_s")
        report.add("time until the calls begin: on / off", before)
        report.add("on: writing a call", _sum(on, "calls_s") / calls, unit="s")
        report.add("off: writing a call", _sum(off, "calls_s") / calls, unit="s")
        between_s = on.turn_s - _sum(on, "thought_s") - _sum(on, "calls_s")
        report.add("on: between the steps, for a call", between_s / calls, unit="s")
        report.add("off / on", off.turn_s / on.turn_s)
        report.add(RATIO, on.turn_s / bound_s)
    report.judge(RATIO, AtMost(TARGET))
    print(f"{len(pairs)} turns: {statistics.median(report.samples(RATIO)):.3f} of the bound")


def _sum(turn: Whole, name: str) -> float:
    return sum(getattr(step, name) for step in turn.steps)
