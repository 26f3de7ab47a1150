"""The paper's experiment in its own form: speculation at the client of a server (arXiv 2512.15834).

The service stands in front of a server of vLLM's and knows nothing of its engine: tools run early,
and nothing is verified or cached. A draft model behind an OpenAI-compatible server predicts the
calls; it writes the message of a step λ times. For each λ, a service of its own stands in front of
the same server, and all take the same turns in turn. A turn is measured from the start of its first
step to that of its second; the model reasons and then calls tools that take `--tool-s`.

Unless `--draft-url` names another server, the server of the turns also has the draft model, which
is then the same model. So samples take time from the turns, and what is measured includes that.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

import precall
from bench import served
from bench.bfcl_prompts import ToolPrompt, tool_prompts
from bench.order import rotated
from bench.process import started
from bench.report import Report
from bench.speculating import ENGINE, ENGINE_ON_GPU
from bench.tool_turns import OFF, TurnTimes, run_turn
from precall_service.domain.json import JsonObject

ON = precall.Speculation("on", predictors=["draft_model"], events=True)

SIZES = {
    "cpu": {"samples": "1,3,5,7,9", "prompts": 4, "tool_s": 1.0, "rounds": 2, **ENGINE},
    "gpu": {"samples": "1,3,5,7,9", "prompts": 24, "tool_s": 1.0, "rounds": 2, **ENGINE_ON_GPU},
    "quick": {"samples": "1,3", "prompts": 1, "tool_s": 0.5, "rounds": 1, **ENGINE},
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this bench."""
    served.add_arguments(parser)
    served.add_block_size(parser)
    parser.add_argument("--draft-url", help="server of the draft model (default: the same)")
    parser.add_argument("--draft-model", help="its name there (default: the model of the turns)")
    parser.add_argument("--samples", help="values of λ, separated by commas")
    parser.add_argument("--prompts", type=int, help="prompts in each round")
    parser.add_argument("--tool-s", type=float, help="the time of a tool, in seconds")
    parser.add_argument("--rounds", type=int)


async def run(options: argparse.Namespace, report: Report) -> None:
    """Runs the bench and adds its samples to the report."""
    wanted = [int(text) for text in options.samples.split(",")]
    done = report.count(_name(wanted[0], "step and tool: on / off")) * options.prompts
    prompts = iter(tool_prompts(done + options.rounds * options.prompts)[done:])
    async with _clients(options, wanted) as clients:
        for _ in range(options.rounds):
            turns: list[dict[int, TurnTimes]] = []
            for index in range(options.prompts):
                prompt = next(prompts)
                try:
                    found = await _turns(clients, prompt, options.tool_s, number=index)
                except precall.NoCallError as error:
                    print(f"{prompt.id}: {error}")
                    continue
                if all(each.calls and each.next_at for each in found.values()):
                    turns.append(found)
                else:
                    print(f"{prompt.id}: the model came to no call within its limit")
            _add(report, turns)
            report.round_ended()


@asynccontextmanager
async def _clients(
    options: argparse.Namespace, wanted: list[int]
) -> AsyncGenerator[dict[int, precall.Client]]:
    """A client for each λ, and one for turns without speculation, whose λ is 0."""
    arms = served.served(options, block_size=options.block_size)
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(arms.openai())
        url, model = str(server.ready["address"]), arms.model.display_name
        found: dict[int, precall.Client] = {}
        for samples in (0, *wanted):
            draft_model: JsonObject = {
                "url": options.draft_url or url,
                "model": options.draft_model or model,
                "samples": samples,
                "streams": True,
                "template_variables": {"enable_thinking": False},
            }
            sections: JsonObject = {
                "engine": {"backend": "openai", "model": model},
                "openai": {"url": url},
                "speculation": {"draft_model": draft_model} if samples else {},
            }
            child = await stack.enter_async_context(started("bench.arms.launched", sections))
            client = precall.Client(str(child.ready["address"]))
            found[samples] = await stack.enter_async_context(client)
        yield found


async def _turns(
    clients: Mapping[int, precall.Client], prompt: ToolPrompt, tool_s: float, *, number: int
) -> dict[int, TurnTimes]:
    """Takes the turn through each service, after one that is not measured."""
    await run_turn(clients[0], prompt, tool_s=0.0, speculation=OFF)
    found: dict[int, TurnTimes] = {}
    for samples in rotated(clients, number):
        mode = ON if samples else OFF
        found[samples] = await run_turn(clients[samples], prompt, tool_s=tool_s, speculation=mode)
    told = ", ".join(
        f"λ={samples}: {turn.to_next_step_s:.1f} s, {turn.hits} of {len(turn.calls)} calls early"
        for samples, turn in sorted(found.items())
    )
    print(f"{prompt.id}: {told}")
    return found


def _add(report: Report, turns: list[dict[int, TurnTimes]]) -> None:
    """Adds a round: the means over its prompts."""
    if not turns:
        return
    off = [each[0] for each in turns]
    off_s = statistics.mean(each.to_next_step_s for each in off)
    report.add("off: step and tool", off_s, unit="s")
    for samples in sorted(turns[0]):
        if not samples:
            continue
        on = [each[samples] for each in turns]
        hits, calls = sum(each.hits for each in on), sum(len(each.calls) for each in on)
        report.add(_name(samples, "calls answered early"), hits / calls)
        predictions, late = sum(each.predictions for each in on), sum(each.late for each in on)
        report.add(_name(samples, "predictions of a step"), predictions / len(on))
        report.add(_name(samples, "predictions that came true"), hits / max(1, predictions))
        report.add(_name(samples, "calls predicted, but too late"), late / calls)
        waited_s = statistics.mean(each.waited_s for each in on)
        less_s = statistics.mean(each.waited_s for each in off) - waited_s
        report.add(_name(samples, "waited less"), less_s, unit="s")
        report.add(_name(samples, "time per token: on / off"), _token_s(on) / _token_s(off))
        ratio = statistics.mean(each.to_next_step_s for each in on) / off_s
        report.add(_name(samples, "step and tool: on / off"), ratio)


def _token_s(turns: list[TurnTimes]) -> float:
    return sum(each.generation_s for each in turns) / sum(each.tokens for each in turns)


def _name(samples: int, what: str) -> str:
    return f"λ = {samples}: {what}"
