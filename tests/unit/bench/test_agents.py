"""The agents of a bench do the same in every arm and share no prompts."""

from __future__ import annotations

from dataclasses import replace

import pytest

import precall
from bench.agents import TOOL, Workload, plans, run_precall
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
