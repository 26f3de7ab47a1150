"""A chain of reads runs ahead of the model: to a bounded depth, while it comes true."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from precall_service.cache.base import Change, ChangeKind
from precall_service.domain.events import (
    CancelInvocation,
    DiscardReason,
    Invoke,
    PredictionDiscarded,
    PredictionProposed,
    Predictor,
    ResultSource,
)
from precall_service.domain.speculation import SpeculationRequest
from precall_service.speculation.base import Moment, Proposal, Situation
from precall_service.speculation.limits import SpeculationLimits
from precall_service.tools.link import HandlerError, HandlerResult
from tests.support.agent import agent_on, scripted
from tests.support.clock import settle
from tests.support.scripts import says
from tests.support.speculating import (
    ALWAYS,
    READ,
    WEATHER,
    Thinking,
    Told,
    answer_again,
    answers,
    following,
    launched,
    reading,
    reasons,
    weather,
)

ROME, OSLO = ("weather", '{"city": "Rome"}'), ("weather", '{"city": "Oslo"}')
READ_A = ("read", '{"path": "/a"}')
CITIES = ("Rome", "Oslo", "Bonn", "Kyiv")
MANY = replace(WEATHER, max_concurrency=100)
RAN, EARLY = ResultSource.COMMITTED, ResultSource.SPECULATIVE


def chained(situation: Situation) -> Sequence[Proposal]:
    """Proposes Rome, after it Oslo, after that Bonn, and so on."""
    if situation.moment is Moment.STEP_BEGAN and situation.step:
        return ()
    return (weather(CITIES[situation.depth - 1], 1.0),)


AHEAD = (Moment.STEP_BEGAN, Moment.RESULT_READY)


@pytest.mark.parametrize("depth", [1, 2, 3])
async def test_a_chain_runs_ahead_to_the_depth_that_is_granted(depth: int) -> None:
    thinking = Thinking()
    told = Told(chained, name=Predictor.HISTORY, moments=AHEAD)
    most = replace(SpeculationLimits().most, max_depth=3)
    limits = SpeculationLimits(most=most, margin_s=-1000.0)
    steps = [thinking.then()]
    async with agent_on(scripted(*steps), predictors=[told], speculation=limits) as there:
        asked = SpeculationRequest(send_events=True, max_depth=depth)
        client = there.open(MANY, speculation=asked, handler=lambda _: HandlerResult('"sun"'))
        await client.send()
        await settle()
        assert launched(client) == [f"weather {city}" for city in CITIES[:depth]]
        assert [each.depth for each in client.of(PredictionProposed)] == [*range(1, depth + 1)]
        last = told.asked[-1]
        assert [each.arguments["city"] for each in last.calls] == list(CITIES[: depth - 1])
        assert [each.result_json for each in last.calls] == ['"sun"'] * (depth - 1)
        assert last.step == depth - 1
        await thinking.on()


async def test_a_chain_comes_true_step_by_step() -> None:
    thinking = Thinking()
    told = Told(chained, name=Predictor.HISTORY, moments=AHEAD)
    oslo = ("weather", '{"city": "Oslo"}')
    steps = [thinking.then(ROME), thinking.then(oslo), thinking.then()]
    limits = SpeculationLimits(margin_s=-1000.0)
    async with agent_on(scripted(*steps), predictors=[told], speculation=limits) as there:
        client = there.open(MANY, handler=lambda _: HandlerResult('"sun"'))
        turn = await client.send()
        for step in range(3):
            await thinking.on(step)
        assert len(client.of(Invoke)) == 2
        assert client.ending(turn).report.predictions_confirmed == 2
        assert not client.of(PredictionDiscarded)


async def test_nothing_follows_a_run_that_failed() -> None:
    thinking = Thinking()
    told = Told(chained, name=Predictor.HISTORY, moments=AHEAD)
    limits = SpeculationLimits(margin_s=-1000.0)
    steps = [thinking.then()]
    async with agent_on(scripted(*steps), predictors=[told], speculation=limits) as there:
        client = there.open(MANY)
        await client.send()
        await client.deliver(HandlerError("Busy", "later"))
        await thinking.on()
        assert [each.moment for each in told.asked] == [Moment.STEP_BEGAN]


async def test_what_follows_a_wrong_prediction_ends_with_it() -> None:
    thinking = Thinking()
    told = Told(chained, name=Predictor.HISTORY, moments=AHEAD)
    steps = [thinking.then(("weather", '{"city": "Kyiv"}')), thinking.then()]
    limits = SpeculationLimits(margin_s=-1000.0)
    async with agent_on(scripted(*steps), predictors=[told], speculation=limits) as there:
        client = there.open(MANY)
        await client.send()
        await client.answer(0)
        assert launched(client) == ["weather Rome", "weather Oslo"]
        await thinking.on(0)
        assert reasons(client) == [DiscardReason.MISMATCH, DiscardReason.MISMATCH]
        assert len(client.of(CancelInvocation)) == 1
        await client.answer(-1)
        await thinking.on(1)


async def test_a_prediction_outlives_the_early_result_before_it() -> None:
    thinking = Thinking()
    steps = [thinking.then(READ_A), thinking.then(OSLO), says("done")]
    told = Told(following(reading(), weather("Oslo")), moments=ALWAYS)
    async with agent_on(scripted(*steps), predictors=[told]) as there:
        client = there.open(READ, WEATHER)
        turn = await client.send()
        await there.advance(2.0)
        await client.answer(0, '"old"')
        await client.answer(1, '"rain"')
        change = Change(kind=ChangeKind.RESOURCE, names=("file:/a",))
        await there.cache.invalidate("ann", change)
        await thinking.on(0)
        assert reasons(client) == [DiscardReason.STALE_RESOURCE]
        await answer_again(client)
        await thinking.on(1)
        assert answers(client) == [(RAN, '"new"'), (EARLY, '"rain"')]
        assert client.ending(turn).report.predictions_confirmed == 1
