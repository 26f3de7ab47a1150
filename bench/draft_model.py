"""A draft model in a second engine: what it costs the engine of the turns, and what it saves.

Three arms take turns: `alone`, a service without a draft model; `off`, a service with one that is
not asked, in which each engine has its part of the cores or of the GPU's memory; and `on`, the same
service with the draft model as the only predictor. In each, so many agents take turns at the same
time. A turn is measured from the start of its first step to that of its second; the model reasons
and then calls a tool that takes `--tool-s`.

What it costs is the time per token of the first steps. On a machine where both engines share cores,
memory bandwidth or a GPU, that is what sharing costs, and not what the method costs.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import precall
from bench import served
from bench.bfcl_prompts import ToolPrompt, tool_prompts
from bench.order import rotated
from bench.process import Child, started
from bench.report import AtMost, Report
from bench.speculating import ENGINE, ENGINE_ON_GPU
from bench.tool_turns import OFF, TurnTimes, run_turn
from precall_service.domain.json import JsonObject

SLOWED_MOST = 1.10
ON = precall.Speculation("on", predictors=["draft_model"], events=True)
ARMS: Mapping[str, precall.Speculation] = {"alone": OFF, "off": OFF, "on": ON}

SIZES = {
    "cpu": {"agents": "1,4,16", "turns": 2, "tool_s": 1.0, "samples": 3, "rounds": 2, **ENGINE},
    "gpu": {
        "agents": "1,4,16",
        "turns": 4,
        "tool_s": 0.5,
        "samples": 3,
        "rounds": 3,
        **ENGINE_ON_GPU,
    },
    "quick": {"agents": "1,2", "turns": 1, "tool_s": 0.5, "samples": 3, "rounds": 1, **ENGINE},
}


@dataclass(frozen=True, slots=True)
class _Arm:
    client: precall.Client
    speculation: precall.Speculation


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this bench."""
    served.add_arguments(parser)
    served.add_block_size(parser)
    parser.add_argument("--draft-model", default="embedded", help="folder (default: the embedded)")
    parser.add_argument("--cores", type=int, help="CPU cores of the draft model")
    parser.add_argument("--samples", type=int, choices=(1, 3, 5, 7, 9), help="samples of a step")
    parser.add_argument("--agents", help="numbers of agents, separated by commas")
    parser.add_argument("--turns", type=int, help="turns of each agent in a round")
    parser.add_argument("--tool-s", type=float, help="the time of a tool, in seconds")
    parser.add_argument("--rounds", type=int)


async def run(options: argparse.Namespace, report: Report) -> None:
    """Runs the bench and adds its samples to the report."""
    agents = [int(text) for text in options.agents.split(",")]
    done = report.count(_name(agents[0], "calls answered early")) * options.turns
    prompts = tool_prompts((done + options.rounds * options.turns) * max(agents))
    rest = iter(prompts[done * max(agents) :])
    async with _arms(options) as arms:
        for number in range(options.rounds):
            asked = [next(rest) for _ in range(options.turns * max(agents))]
            for count in agents:
                await _round(arms, asked, count, options, report, number=number)
            report.round_ended()


@asynccontextmanager
async def _arms(options: argparse.Namespace) -> AsyncGenerator[dict[str, _Arm]]:
    """Runs both services; the one without a draft model is idle while the other is measured."""
    how = served.served(options, block_size=options.block_size)
    engine: JsonObject = {
        "model": None if how.model.embedded else how.model.path_or_name,
        "device": how.device,
        "vllm": how.vllm,
    }
    draft_model: JsonObject = {"model": options.draft_model, "samples": options.samples}
    if options.cores is not None:
        draft_model = {**draft_model, "cores": options.cores}
    if options.sizes != "gpu":
        draft_model = {**draft_model, "kv_cache_bytes": 1 << 28}
    found: dict[str, _Arm] = {}
    async with AsyncExitStack() as stack:
        for names, speculation in (
            (("alone",), {}),
            (("off", "on"), {"draft_model": draft_model, "verify_drafts": False}),
        ):
            child = await _served(stack, engine, speculation)
            client = precall.Client(str(child.ready["address"]))
            await stack.enter_async_context(client)
            found |= {name: _Arm(client, ARMS[name]) for name in names}
        yield found


async def _served(stack: AsyncExitStack, engine: JsonObject, speculation: JsonObject) -> Child:
    print(f"starting precall with {', '.join(speculation) or 'no draft model'}", flush=True)
    sections: JsonObject = {"engine": engine, "speculation": speculation}
    return await stack.enter_async_context(started("bench.arms.launched", sections))


async def _round(
    arms: Mapping[str, _Arm],
    asked: Sequence[ToolPrompt],
    agents: int,
    options: argparse.Namespace,
    report: Report,
    *,
    number: int,
) -> None:
    """Has so many agents take the same turns in each arm, after a turn that is not measured."""
    shares = [asked[index * options.turns :][: options.turns] for index in range(agents)]
    turns: dict[str, list[TurnTimes]] = {}
    for name in rotated(arms, number):
        await _taken(arms[name], shares, tool_s=0.0)  # fills the KV cache, compiles the grammars
        found = await _taken(arms[name], shares, tool_s=options.tool_s)
        turns[name] = [each for each in found if each.calls and each.next_at]
    if not all(turns.values()):
        print(f"{agents} agents: in an arm, the model came to no call within its limit")
        return
    for name, found in turns.items():
        times = [each.to_next_step_s for each in found]
        tokens = sum(each.tokens for each in found)
        report.add(_name(agents, f"{name}, step and tool"), statistics.mean(times), unit="s")
        report.add(
            _name(agents, f"{name}, time per token"),
            sum(each.generation_s for each in found) / tokens,
            unit="s",
        )
    on = turns["on"]
    hits, calls = sum(each.hits for each in on), sum(len(each.calls) for each in on)
    predictions = sum(each.predictions for each in on)
    report.add(_name(agents, "calls answered early"), hits / calls)
    report.add(_name(agents, "predictions that came true"), hits / max(1, predictions))
    if leads := [each.prediction_s for each in on if each.prediction_s is not None]:
        report.add(_name(agents, "from the step to the early run"), *leads, unit="s")
    for what, over, under in (
        ("time per token: on / off", "on, time per token", "off, time per token"),
        ("time per token: on / alone", "on, time per token", "alone, time per token"),
        ("time per token: off / alone", "off, time per token", "alone, time per token"),
        ("step and tool: on / off", "on, step and tool", "off, step and tool"),
        ("step and tool: on / alone", "on, step and tool", "alone, step and tool"),
    ):
        report.ratio(_name(agents, what), _name(agents, over), _name(agents, under))
    if agents == 1:
        report.judge(_name(1, "time per token: on / off"), AtMost(SLOWED_MOST))
        report.judge(_name(1, "time per token: on / alone"), AtMost(SLOWED_MOST))


async def _taken(
    arm: _Arm, shares: Sequence[Sequence[ToolPrompt]], *, tool_s: float
) -> list[TurnTimes]:
    async def one(prompts: Sequence[ToolPrompt]) -> list[TurnTimes]:
        return [
            await run_turn(arm.client, each, tool_s=tool_s, speculation=arm.speculation)
            for each in prompts
        ]

    return [each for taken in await asyncio.gather(*map(one, shares)) for each in taken]


def _name(agents: int, what: str) -> str:
    return f"{agents} agent{'' if agents == 1 else 's'}: {what}"
