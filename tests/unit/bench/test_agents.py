"""The agents of a bench do the same in every arm and share no prompts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

import precall
from bench.agents import TOOL, Workload, plans, run_openai, run_precall
from precall.testing import Call, FakeServer, Say

WORK = Workload(
    agents=3,
    steps=3,
    prompt_words=20,
    result_words=5,
    step_tokens_max=16,
    tool_s=(0.0, 0.01),
    seed=1,
)
CALL = Call(TOOL, {"number": "123456789012"})


def test_the_same_workload_gives_the_same_plans() -> None:
    assert plans(WORK) == plans(WORK)
    assert plans(WORK) != plans(replace(WORK, seed=2))


def test_no_two_agents_have_the_same_prompt() -> None:
    assert len({plan.system_prompt for plan in plans(WORK)}) == WORK.agents


async def test_a_run_has_a_gap_for_each_result() -> None:
    plan = plans(WORK)[0]
    script = [CALL, CALL, Say("There you are.")]
    async with FakeServer(script) as server, precall.Client(server.address) as client:
        run = await run_precall(client, plan)
    assert [result.value for result in server.results] == list(plan.results)
    assert len(run.results_at) == len(run.seen_gaps_s) == 2
    assert all(gap >= 0 for gap in run.seen_gaps_s)
    assert run.ended_at > run.began_at


async def test_a_run_with_an_unplanned_number_of_calls_fails() -> None:
    script = [CALL, Say("There you are.")]
    async with FakeServer(script) as server, precall.Client(server.address) as client:
        with pytest.raises(RuntimeError, match="made 1 calls, not 2"):
            await run_precall(client, plans(WORK)[0])


class LoopClient:
    """Answers each step with a call, and the last one with text. It counts the agents that run."""

    def __init__(self) -> None:
        self.chat = SimpleNamespace(completions=self)
        self.running: set[str] = set()
        self.most = 0
        self.bodies: list[dict[str, object]] = []

    async def create(self, **asked: Any) -> AsyncGenerator[object]:
        agent, _, _ = asked["extra_headers"]["X-Request-Id"].rpartition("-")
        self.bodies.append(asked["extra_body"])
        self.running.add(agent)
        self.most = max(self.most, len(self.running))
        if asked["tool_choice"] == "none":
            self.running.remove(agent)
            return self._chunks(SimpleNamespace(content="There you are.", tool_calls=None))
        function = SimpleNamespace(name=TOOL, arguments="{}")
        call = SimpleNamespace(id="1", index=0, function=function)
        return self._chunks(SimpleNamespace(content=None, tool_calls=[call]))

    async def _chunks(self, delta: object) -> AsyncGenerator[object]:
        await asyncio.sleep(0)
        yield SimpleNamespace(choices=[SimpleNamespace(delta=delta)])


@pytest.mark.parametrize(("cap", "most"), [(None, 3), (2, 2), (1, 1)])
async def test_no_more_agents_run_than_the_cap_allows(cap: int | None, most: int) -> None:
    fake = LoopClient()
    places = None if cap is None else asyncio.Semaphore(cap)
    runs = await asyncio.gather(
        *(run_openai(cast(Any, fake), "m", plan, cap=places) for plan in plans(WORK))
    )
    assert fake.most == most
    assert all(run.ended_at > run.began_at for run in runs)
    assert not any("program_id" in body for body in fake.bodies)


async def test_an_agent_is_named_to_a_proxy_that_admits_by_program() -> None:
    fake = LoopClient()
    plan = plans(WORK)[0]
    await run_openai(cast(Any, fake), "m", plan, by_program=True)
    assert [body["program_id"] for body in fake.bodies] == [plan.agent_id] * WORK.steps
