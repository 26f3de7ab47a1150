"""What forks cost that are never right: with one agent, and with as many turns as slots.

The predictor does all that a fork does, and then changes an argument of what it found. So its
branches run, and so do the handlers of its predictions, but no call is ever answered early. The
same service runs turns with speculation off and on.

- One agent, *wrong*: whole turns, each with tools that the service has not seen before. Only turns
  with predictions count.
- One agent, *always wrong*: one turn again and again, after the service has seen it many times. Its
  policy should have learned by now that forks are not worth it.
- *Saturation*: every slot has an agent that runs one turn after another, all with speculation, or
  all without. The tokens that the turns generate in a second are counted in the service.

The engine's results depend a little on what else it computes, so the text of a turn may differ. One
agent is therefore measured by the time per generated token, without the waits for tools.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
from collections.abc import Sequence

import precall
from bench import speculating
from bench.bfcl_prompts import ToolPrompt, tool_prompts
from bench.process import Child
from bench.report import AtLeast, AtMost, Report
from bench.speculating import ENGINE, ENGINE_ON_GPU, Pair, run_pair
from bench.tool_turns import FORK, OFF, TurnTimes, run_turn

SIZES = {
    "cpu": {
        "prompts": 10,
        "repeats": 24,
        "pairs": 10,
        "tool_s": 0.2,
        "window_s": 25.0,
        "rounds": 2,
        **ENGINE,
    },
    "gpu": {
        "prompts": 6,
        "repeats": 24,
        "pairs": 6,
        "tool_s": 0.05,
        "window_s": 5.0,
        "rounds": 1,
        **ENGINE_ON_GPU,
    },
    "quick": {
        "prompts": 1,
        "repeats": 2,
        "pairs": 1,
        "tool_s": 0.2,
        "window_s": 5.0,
        "rounds": 1,
        **ENGINE,
    },
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this bench."""
    speculating.add_arguments(parser)
    parser.add_argument("--prompts", type=int, help="pairs of turns with new tools in each round")
    parser.add_argument("--repeats", type=int, help="turns from which the service learns")
    parser.add_argument("--pairs", type=int, help="pairs of turns after that")
    parser.add_argument("--tool-s", type=float, help="time of a tool")
    parser.add_argument("--window-s", type=float, help="time for which each slot has an agent")
    parser.add_argument("--rounds", type=int, help="rounds; each starts the service again")


async def run(options: argparse.Namespace, report: Report) -> None:
    """Runs the bench and adds its samples to the report."""
    done = report.count("saturation: tokens/s, on / off") // 2
    for number in range(done, done + options.rounds):
        first = number * options.prompts
        prompts = tool_prompts(first + options.prompts)[first:]
        async with (
            speculating.speculating(options, "wrong") as server,
            precall.Client(str(server.ready["address"])) as client,
        ):
            await _one_agent(client, server, "wrong", prompts, options=options, report=report)
            await _saturated(client, server, options, report, on_first=number % 2 == 1)
            for _ in range(options.repeats):
                await _turn(client, prompts[0], FORK, options)
            repeated = [prompts[0]] * options.pairs
            await _one_agent(
                client, server, "always wrong", repeated, options=options, report=report
            )
        _judge(report)
        report.round_ended()


async def _one_agent(
    client: precall.Client,
    server: Child,
    name: str,
    prompts: Sequence[ToolPrompt],
    *,
    options: argparse.Namespace,
    report: Report,
) -> None:
    for number, prompt in enumerate(prompts):
        await _turn(client, prompt, OFF, options)  # puts the prompt into the KV cache
        pair = await run_pair(
            client, server, prompt, tool_s=options.tool_s, on_first=number % 2 == 1, whole=True
        )
        if not pair.on.next_at or not pair.off.next_at:
            continue  # a limit has cut the first step
        if name == "wrong" and not pair.on.predictions:
            continue  # the step was not forked, or the branch came to no call
        _add(report, f"one agent, {name}", pair)


def _add(report: Report, name: str, pair: Pair) -> None:
    off_s, on_s = (1e3 * each.generated_s / each.tokens for each in (pair.off, pair.on))
    report.add(f"{name}: time per token, off", off_s, unit="ms")
    report.add(f"{name}: predictions in a turn", pair.on.predictions)
    report.add(f"{name}: predictions that came true", pair.on.hits)
    report.add(f"{name}: same text on and off", float(pair.on.texts == pair.off.texts))
    report.add(f"{name}: time per token, on / off", on_s / off_s)
    print(f"{name}: {off_s:.1f} ms per token, {on_s / off_s:.3f} times with speculation")


async def _saturated(
    client: precall.Client,
    server: Child,
    options: argparse.Namespace,
    report: Report,
    *,
    on_first: bool,
) -> None:
    """Measures tokens per second with an agent for each slot: off, on, on, off, or the reverse."""
    rates: dict[bool, list[float]] = {False: [], True: []}
    for on in (on_first, not on_first, not on_first, on_first):
        rates[on].append(await _rate(client, server, options, on=on))
    for off, on in zip(rates[False], rates[True], strict=True):
        report.add("saturation: tokens/s, off", off, unit="tokens/s")
        report.add("saturation: tokens/s, on / off", on / off)
        print(f"saturation: {off:.0f} tokens/s, {on / off:.3f} times with speculation")


async def _rate(
    client: precall.Client, server: Child, options: argparse.Namespace, *, on: bool
) -> float:
    """Returns the tokens per second that the turns of all slots generate."""
    prompts = itertools.cycle(tool_prompts(4 * options.max_num_seqs))

    async def agent() -> None:
        while True:
            await _turn(client, next(prompts), FORK if on else OFF, options)

    agents = [asyncio.create_task(agent()) for _ in range(options.max_num_seqs)]
    try:
        await asyncio.sleep(options.window_s / 4)
        before = await server.ask("tokens")
        await asyncio.sleep(options.window_s)
        after = await server.ask("tokens")
    finally:
        for each in agents:
            each.cancel()
        await asyncio.wait(agents)
    tokens, seconds = (float(str(after[name])) - float(str(before[name])) for name in before)
    return tokens / seconds


async def _turn(
    client: precall.Client,
    prompt: ToolPrompt,
    speculation: precall.Speculation,
    options: argparse.Namespace,
) -> TurnTimes:
    return await run_turn(
        client, prompt, tool_s=options.tool_s, speculation=speculation, whole=True
    )


def _judge(report: Report) -> None:
    for name, bound in (("wrong", 1.05), ("always wrong", 1.02)):
        report.judge(f"one agent, {name}: time per token, on / off", AtMost(bound))
    report.judge("saturation: tokens/s, on / off", AtLeast(0.99))
