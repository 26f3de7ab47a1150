"""How many handlers run early at once, and which of them give way to others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace

import pytest

from precall_service.domain.events import (
    CancelInvocation,
    DiscardReason,
    Invoke,
    Predictor,
)
from precall_service.speculation.base import Moment, Proposal, Situation
from precall_service.speculation.limits import SpeculationLimits
from precall_service.speculation.records import TOOLS_MAX
from tests.support.agent import agent_on, scripted
from tests.support.clock import settle
from tests.support.scripts import says
from tests.support.speculating import (
    WEATHER,
    Slow,
    Thinking,
    Told,
    first_step,
    launched,
    reasons,
    story,
    weather,
)

ROME = ("weather", '{"city": "Rome"}')
CITIES = ("Rome", "Oslo", "Bonn", "Kyiv", "Lima")
MANY = replace(WEATHER, max_concurrency=100)


class InTurn:
    """A predictor that proposes one call after the other, each once everything else has run."""

    name = Predictor.HISTORY
    moments = frozenset({Moment.STEP_BEGAN})

    def __init__(self, proposals: Sequence[Proposal]) -> None:
        self._proposals = proposals

    async def propose(self, situation: Situation) -> AsyncGenerator[Proposal, None]:
        for each in self._proposals if situation.step == 0 else ():
            yield each
            for _ in range(10):
                await asyncio.sleep(0)


async def test_a_turn_runs_only_so_many_at_once() -> None:
    thinking = Thinking()
    told = Told(first_step(*map(weather, CITIES)))
    limits = SpeculationLimits(running_per_turn_max=2)
    steps = [thinking.then(ROME), says("done")]
    async with agent_on(scripted(*steps), predictors=[told], speculation=limits) as there:
        client = there.open(MANY)
        await client.send()
        assert launched(client) == ["weather Rome", "weather Oslo"]
        await client.answer(0)
        await thinking.on()
        assert reasons(client) == [DiscardReason.MISMATCH, *[DiscardReason.BUDGET] * 3]


async def test_a_better_prediction_takes_the_place_of_the_worst() -> None:
    thinking = Thinking()
    limits = SpeculationLimits(running_per_turn_max=2)
    steps = [thinking.then(("weather", '{"city": "Bonn"}')), says("done")]
    predictors = [InTurn([weather("Rome", 0.6), weather("Oslo", 0.5), weather("Bonn", 0.7)])]
    async with agent_on(scripted(*steps), predictors=predictors, speculation=limits) as there:
        client = there.open(MANY)
        turn = await client.send()
        assert launched(client) == ["weather Rome", "weather Oslo", "weather Bonn"]
        assert story(client)[-2:] == ["discarded weather Oslo: SUPERSEDED", "launched weather Bonn"]
        [cancel] = client.of(CancelInvocation)
        assert cancel.invocation_id == client.of(Invoke)[1].invocation_id
        await client.answer(2)
        await thinking.on()
        assert client.ending(turn).report.predictions_confirmed == 1


async def test_an_equally_probable_prediction_takes_no_place() -> None:
    thinking = Thinking()
    limits = SpeculationLimits(running_per_turn_max=1)
    steps = [thinking.then()]
    predictors = [InTurn([weather("Rome"), weather("Oslo")])]
    async with agent_on(scripted(*steps), predictors=predictors, speculation=limits) as there:
        client = there.open(MANY)
        await client.send()
        assert launched(client) == ["weather Rome"]
        await thinking.on()
        assert reasons(client) == [DiscardReason.TURN_ENDED, DiscardReason.BUDGET]


@pytest.mark.parametrize("wasted_s", [59.0, 60.0])
async def test_nothing_takes_a_place_once_the_tenant_has_wasted_enough(wasted_s: float) -> None:
    slow, thinking = Slow(weather("Oslo", 0.9)), Thinking()
    limits = SpeculationLimits(running_per_turn_max=1, waste_per_minute_s=60.0)
    predictors = [InTurn([weather("Rome", 0.5)]), slow]
    steps = [thinking.then()]
    async with agent_on(scripted(*steps), predictors=predictors, speculation=limits) as there:
        client = there.open(MANY)
        await client.send()
        there.speculation.records.of("ann").waste(wasted_s)
        slow.gate.set()
        await settle()
        oslo = ["weather Oslo"] if wasted_s < 60.0 else []
        assert launched(client) == ["weather Rome", *oslo]
        await thinking.on()


async def test_a_tenant_runs_only_so_many_at_once_in_all_its_turns() -> None:
    thinking = Thinking()
    limits = SpeculationLimits(running_per_tenant_max=1)
    told = Told(first_step(weather()))
    steps = [thinking.then(), thinking.then(), thinking.then()]
    async with agent_on(scripted(*steps), predictors=[told], speculation=limits) as there:
        first, second = there.open(MANY), there.open(MANY)
        other = there.open(MANY, tenant="bob")
        for client in (first, second, other):
            await client.send()
        assert [len(launched(client)) for client in (first, second, other)] == [1, 0, 1]
        for step in range(3):
            await thinking.on(step)
        assert reasons(second) == [DiscardReason.BUDGET]
        assert there.speculation.records.of("ann").running == 0


async def test_a_tool_that_was_forgotten_meanwhile_runs_nothing() -> None:
    thinking = Thinking()
    told = Told(first_step(weather()))
    async with agent_on(scripted(thinking.then(ROME), says("done")), predictors=[told]) as there:
        client = there.open(WEATHER)
        await client.send()
        tenant = there.speculation.records.of("ann")
        for number in range(TOOLS_MAX):
            tenant.tool(f"tool {number}")
        await client.answer(0)
        await thinking.on()
        assert tenant.tool("weather").running == 0
        assert tenant.running == 0
