"""Early runs and verified drafts with the fork as the only predictor, with tools of 1 and 2 s.

The model reasons and then calls. The same turn runs with speculation off and on, in the same
service, after a turn that is not measured: the first turn with a prompt and its tools computes the
prompt and compiles the grammar. A turn is measured from the start of its first step to that of its
second. Each prompt has its own tools, so the service knows nothing of them before.

What is saved has three parts: how much less the turn waited for its tools, how much sooner the
calls were written because the engine verified them, and, to be subtracted, how much longer the
reasoning took because branches ran beside it. The last two are taken by the time per token: the
engine's results depend a little on what else it computes, so the message of one turn may be longer
than that of the other.

The sum is compared with what the formula allows for the lead and the acceptance that were measured
in the same turns, and one verification for each call (bench/theory.py). The formula takes no
account of the time that the branches take from the model.
"""

from __future__ import annotations

import argparse
import statistics

import precall
from bench import speculating
from bench.bfcl_prompts import tool_prompts
from bench.report import AtLeast, Report
from bench.speculating import ENGINE, ENGINE_ON_GPU, Pair, run_pair
from bench.step_times import verification_s
from bench.tool_turns import OFF, run_turn

TARGET = 0.9

SIZES = {
    "cpu": {"prompts": 8, "tools_s": "1,2", "rounds": 2, **ENGINE},
    "gpu": {"prompts": 8, "tools_s": "0.3,1", "rounds": 2, **ENGINE_ON_GPU},
    "quick": {"prompts": 2, "tools_s": "1", "rounds": 1, **ENGINE},
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this bench."""
    speculating.add_arguments(parser)
    parser.add_argument("--prompts", type=int, help="prompts in each round")
    parser.add_argument("--tools-s", help="times of the tools, in seconds")
    parser.add_argument("--rounds", type=int)


async def run(options: argparse.Namespace, report: Report) -> None:
    """Runs the bench and adds its samples to the report."""
    tools_s = [float(text) for text in options.tools_s.split(",")]
    done = report.count(_name(tools_s[0], "acceptance")) * options.prompts
    prompts = tool_prompts(done + options.rounds * options.prompts)[done:]
    pairs: dict[float, list[Pair]] = {tool_s: [] for tool_s in tools_s}
    async with (
        speculating.speculating(options, "fork") as server,
        precall.Client(str(server.ready["address"])) as client,
    ):
        for number, prompt in enumerate(prompts, start=1):
            await run_turn(client, prompt, tool_s=0.0, speculation=OFF)  # fills the KV cache
            for index, tool_s in enumerate(tools_s):
                on_first = (number + index) % 2 == 1
                pair = await run_pair(client, server, prompt, tool_s=tool_s, on_first=on_first)
                if not pair.complete:
                    print(f"{prompt.id}: the model came to no call within its limit")
                    continue
                pairs[tool_s].append(pair)
                print(
                    f"{prompt.id}, {tool_s:g} s: {pair.on.hits} of {len(pair.on.calls)} calls, "
                    f"waited {pair.hidden_s:.2f} s less, called {pair.drafted_s:.2f} s sooner, "
                    f"reasoned {pair.branched_s:.2f} s longer"
                )
            if number % options.prompts == 0:
                for tool_s, found in pairs.items():
                    _add(report, tool_s, found)
                    found.clear()
                report.round_ended()


def _add(report: Report, tool_s: float, pairs: list[Pair]) -> None:
    """Adds a round: the sums over its pairs."""
    if not pairs:
        return
    hits = sum(pair.on.hits for pair in pairs)
    report.add(_name(tool_s, "acceptance"), hits / sum(len(pair.on.calls) for pair in pairs))
    report.add(
        _name(tool_s, "time to write the calls, off"),
        statistics.mean(pair.off.generation_s for pair in pairs),
        unit="s",
    )
    if leads := [pair.timing.lead_s for pair in pairs if pair.on.hits]:
        report.add(_name(tool_s, "lead"), *leads, unit="s")
    verified_s = verification_s(pair.on_step for pair in pairs)
    if verified_s:
        report.add(_name(tool_s, "one verification"), 1e3 * verified_s, unit="ms")
    off_s = statistics.mean(pair.off_s for pair in pairs)
    hidden_s = statistics.mean(pair.hidden_s for pair in pairs)
    drafted_s = statistics.mean(pair.drafted_s for pair in pairs)
    branched_s = statistics.mean(pair.branched_s for pair in pairs)
    saved_s = hidden_s + drafted_s - branched_s
    report.add(_name(tool_s, "turn, off"), off_s, unit="s")
    report.add(_name(tool_s, "waited less"), hidden_s, unit="s")
    report.add(_name(tool_s, "calls written sooner"), drafted_s, unit="s")
    report.add(_name(tool_s, "reasoned longer"), branched_s, unit="s")
    report.add(_name(tool_s, "turn, on / off"), 1.0 - saved_s / off_s)
    allowed_s = statistics.mean(pair.allowed_with_drafts_s(verified_s) for pair in pairs)
    report.add(_name(tool_s, "turn, by the formula / off"), 1.0 - allowed_s / off_s)
    if not allowed_s:
        return
    waiting_s = statistics.mean(pair.allowed_s for pair in pairs)
    if waiting_s:
        waiting = _name(tool_s, "waited less / allowed without drafts")
        report.add(waiting, hidden_s / waiting_s)
        report.judge(waiting, AtLeast(TARGET))
    without_branches = _name(tool_s, "saved / allowed, without the cost of branches")
    report.add(without_branches, (hidden_s + drafted_s) / allowed_s)
    report.add(_name(tool_s, "saved / allowed"), saved_s / allowed_s)
    for what in (without_branches, _name(tool_s, "saved / allowed")):
        report.judge(what, AtLeast(TARGET))


def _name(tool_s: float, what: str) -> str:
    return f"tools of {tool_s:g} s: {what}"
