"""Agents that use a tool: the plan of each agent, and the two loops that run it.

Owns: the plan of an agent: its prompt, its calls and how long its tool takes. All arms use it.
Never: schedules steps. Scheduling is what the arms differ in.

Times are read from the machine's monotonic clock, so they can be compared with the servers' times.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, cast

import openai
import pydantic

import precall

TOOL = "look_up"
DESCRIPTION = "Looks a number up in the register."
PATTERN = "^[0-9]{12}$"
"""The pattern of a call's only argument. It makes all calls about equally long."""

Number = Annotated[str, pydantic.Field(pattern=PATTERN)]
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"number": {"type": "string", "pattern": PATTERN}},
    "required": ["number"],
    "additionalProperties": False,
}
NO_THOUGHT: dict[str, Any] = {"enable_thinking": False}
"""The template variables of all arms. A step is too short for a thought before its call, and vLLM's
server holds a model that may think to no call."""
_TEXT = (
    "river stone cloud lamp garden winter paper silver bridge market engine valley copper forest "
    "window harbour candle meadow orange thunder basket mirror pepper saddle tunnel violet walnut "
    "anchor blanket cabin desert eagle feather glacier hammer island jungle kettle ladder magnet"
)
_WORDS = _TEXT.split()


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """The parameters that all agents of a run share. Each step but the last makes one call."""

    agents: int
    steps: int
    prompt_words: int
    result_words: int
    step_tokens_max: int
    tool_s: tuple[float, float]
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What one agent does."""

    agent_id: str
    steps: int
    system_prompt: str
    text: str
    results: tuple[str, ...]
    tool_s: tuple[float, ...]
    step_tokens_max: int


@dataclass(slots=True, kw_only=True)
class Run:
    """The times that were measured for one agent."""

    plan: Plan
    began_at: float
    ended_at: float = 0.0
    results_at: list[float] = field(default_factory=list[float])
    """When the client had each result."""
    seen_gaps_s: list[float] = field(default_factory=list[float])
    """From each result to the first output of the model that the client saw after it."""
    steps: list[str] = field(default_factory=list[str])
    """Prefixes of the server's request ids: one for each step, or one for all steps."""


def plans(work: Workload) -> list[Plan]:
    """The agents' plans. They depend only on the workload, and no two prompts begin alike."""
    return [_plan(work, index) for index in range(work.agents)]


def _plan(work: Workload, index: int) -> Plan:
    source = random.Random(f"{work.seed}-{index}")
    calls = work.steps - 1
    return Plan(
        agent_id=f"agent-{work.seed}-{index}",
        steps=work.steps,
        system_prompt=_words(source, work.prompt_words),
        text="Look the numbers up, one after the other, then say what they mean.",
        results=tuple(_words(source, work.result_words) for _ in range(calls)),
        tool_s=tuple(source.uniform(*work.tool_s) for _ in range(calls)),
        step_tokens_max=work.step_tokens_max,
    )


def _words(source: random.Random, count: int) -> str:
    return " ".join(source.choice(_WORDS) for _ in range(count))


async def run_precall(client: precall.Client, plan: Plan) -> Run:
    """Runs the agent as one turn of the service."""
    run = Run(plan=plan, began_at=time.monotonic())

    async def look_up(number: Number) -> str:
        at = len(run.results_at)
        await asyncio.sleep(plan.tool_s[at])
        run.results_at.append(time.monotonic())
        return plan.results[at]

    conversation = client.conversation(
        system_prompt=plan.system_prompt,
        template_variables=NO_THOUGHT,
        tools=[precall.Tool.from_function(look_up, name=TOOL, description=DESCRIPTION)],
    )
    async with conversation:
        run.began_at = time.monotonic()
        turn = conversation.send(
            plan.text,
            temperature=0.0,
            max_step_tokens=plan.step_tokens_max,
            max_turn_tokens=plan.steps * plan.step_tokens_max,
        )
        async for event in turn:
            match event:
                case precall.TextDelta() | precall.ToolCallStarted():
                    _see(run)
                case precall.TurnCompleted():
                    run.ended_at = time.monotonic()
                case _:
                    pass
        run.steps = [conversation.id]
    _check(run)
    return run


async def run_openai(
    client: openai.AsyncOpenAI,
    model: str,
    plan: Plan,
    *,
    cap: asyncio.Semaphore | None = None,
    by_program: bool = False,
) -> Run:
    """Runs the agent as the loop that clients write today: each step is a separate request.

    With a `cap`, the agent first waits for its place among the running ones, which counts as its
    time. With `by_program`, each request names the agent in the field that ThunderAgent reads.
    """
    run = Run(plan=plan, began_at=time.monotonic())
    async with cap or contextlib.nullcontext():
        await _run_steps(client, model, run, by_program=by_program)
    _check(run)
    return run


async def _run_steps(client: openai.AsyncOpenAI, model: str, run: Run, *, by_program: bool) -> None:
    plan = run.plan
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": plan.system_prompt},
        {"role": "user", "content": plan.text},
    ]
    for step in range(plan.steps):
        last = step == plan.steps - 1
        name = f"{plan.agent_id}-{step}"
        run.steps.append(f"chatcmpl-{name}")
        calls = await _openai_step(
            client, model, run, messages, name, last=last, by_program=by_program
        )
        for call in calls:
            at = len(run.results_at)
            await asyncio.sleep(plan.tool_s[at])
            run.results_at.append(time.monotonic())
            result = plan.results[at]
            messages.append({"role": "tool", "tool_call_id": call["id"], "content": result})
    run.ended_at = time.monotonic()


async def _openai_step(
    client: openai.AsyncOpenAI,
    model: str,
    run: Run,
    messages: list[dict[str, Any]],
    name: str,
    *,
    last: bool,
    by_program: bool,
) -> Sequence[dict[str, Any]]:
    """Streams one step, appends its message to `messages`, and returns its calls."""
    function = {
        "name": TOOL,
        "description": DESCRIPTION,
        "parameters": SCHEMA,
        "strict": True,
    }
    stream = await client.chat.completions.create(
        model=model,
        messages=cast(Any, messages),
        tools=cast(Any, [{"type": "function", "function": function}]),
        tool_choice=cast(Any, "none" if last else {"type": "function", "function": {"name": TOOL}}),
        temperature=0.0,
        max_tokens=run.plan.step_tokens_max,
        stream=True,
        extra_headers={"X-Request-Id": name},
        extra_body={"chat_template_kwargs": NO_THOUGHT}
        | ({"program_id": run.plan.agent_id} if by_program else {}),
    )
    text, calls = "", dict[int, dict[str, Any]]()
    async for chunk in stream:
        delta = chunk.choices[0].delta if chunk.choices else None
        if delta is None or not (delta.content or delta.tool_calls):
            continue
        _see(run)
        text += delta.content or ""
        for part in delta.tool_calls or []:
            if part.function is None:
                continue
            empty = {"id": part.id, "type": "function", "function": {"name": "", "arguments": ""}}
            function = calls.setdefault(part.index, empty)["function"]
            function["name"] += part.function.name or ""
            function["arguments"] += part.function.arguments or ""
    made = list(calls.values())
    messages.append({"role": "assistant", "content": text or None, "tool_calls": made or None})
    return made


def _see(run: Run) -> None:
    """Notes that the client saw output of the model. The first one after a result ends a gap."""
    if len(run.seen_gaps_s) < len(run.results_at):
        run.seen_gaps_s.append(time.monotonic() - run.results_at[-1])


def _check(run: Run) -> None:
    made, meant = len(run.results_at), run.plan.steps - 1
    if made != meant:
        raise RuntimeError(f"{run.plan.agent_id} made {made} calls, not {meant}")
