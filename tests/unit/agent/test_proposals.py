"""What becomes of proposals: which are taken, and when predictors are asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace

import pytest

from precall_service.agent.proposals import TASKS_MAX
from precall_service.domain.events import (
    DiscardReason,
    Invoke,
    PredictionDiscarded,
    PredictionProposed,
    Predictor,
    TurnOutcome,
)
from precall_service.domain.speculation import SpeculationMode, SpeculationRequest
from precall_service.engine.base import StepSpec
from precall_service.engine.vllm.token_prompt import TokenPrompt
from precall_service.speculation.base import Moment, Proposal, Situation
from precall_service.speculation.limits import SpeculationLimits
from precall_service.speculation.places import PLACES
from precall_service.speculation.predictors.fork import Fork
from tests.support.agent import agent_limits, agent_on, scripted
from tests.support.clock import settle
from tests.support.scripted_template import prompt_text
from tests.support.scripts import TICK, Item, Pause, calls, in_turn, says, thinks
from tests.support.speculating import (
    WEATHER,
    Slow,
    Thinking,
    Told,
    first_step,
    proposal,
    reasons,
    story,
    weather,
)

ROME = ("weather", '{"city": "Rome"}')
CITIES = ("Rome", "Oslo", "Bonn", "Kyiv", "Lima")
MANY = replace(WEATHER, max_concurrency=100)
SHADOW = SpeculationRequest(mode=SpeculationMode.SHADOW, send_events=True)


async def test_a_turn_has_only_so_many_predictions() -> None:
    thinking = Thinking()
    limits = SpeculationLimits(predictions_per_turn_max=3)
    told = Told([*map(weather, CITIES)])
    steps = [thinking.then(ROME), thinking.then()]
    async with agent_on(scripted(*steps), predictors=[told], speculation=limits) as there:
        client = there.open(MANY)
        await client.send()
        await client.answer(0)
        await thinking.on(0)
        assert len(told.asked) == 1, "a turn that takes no more predictions asks for none"
        await thinking.on(1)
        assert len(client.of(PredictionProposed)) == 3


async def test_a_predictor_has_only_so_many_proposals_at_a_moment() -> None:
    thinking = Thinking()
    told = Told(first_step(*(weather(f"city {number}") for number in range(20))))
    async with agent_on(scripted(thinking.then()), predictors=[told]) as there:
        client = there.open(MANY)
        await client.send()
        await thinking.on()
        assert len(client.of(PredictionProposed)) == 8


@pytest.mark.parametrize(
    "bad",
    [
        proposal("no_such_tool"),
        Proposal(tool_name="weather", arguments_json="{", confidence=0.9),
        Proposal(tool_name="weather", arguments_json="{}", confidence=0.9),
        Proposal(tool_name="weather", arguments_json="[]", confidence=0.9),
    ],
)
async def test_what_is_no_call_of_a_tool_is_no_prediction(bad: Proposal) -> None:
    thinking = Thinking()
    told = Told(first_step(bad, weather()))
    async with agent_on(scripted(thinking.then()), predictors=[told]) as there:
        client = there.open(WEATHER)
        await client.send()
        await thinking.on()
        assert story(client)[0] == "proposed weather Rome"
        assert len(client.of(PredictionProposed)) == 1


async def test_arguments_are_compared_in_canonical_form() -> None:
    thinking = Thinking()
    other = Proposal(
        tool_name="weather", arguments_json='{ "days":2.0, "city":"\\u0052ome" }', confidence=0.9
    )
    steps = [thinking.then(("weather", '{"city": "Rome", "days": 2}')), says("done")]
    async with agent_on(scripted(*steps), predictors=[Told(first_step(other))]) as there:
        client = there.open(WEATHER)
        turn = await client.send()
        [proposed] = client.of(PredictionProposed)
        assert proposed.arguments_json == '{"city":"Rome","days":2}'
        await client.answer(0)
        await thinking.on()
        assert client.ending(turn).report.predictions_confirmed == 1


@pytest.mark.parametrize(("said", "taken"), [(7.0, 1.0), (-1.0, 0.0), (float("inf"), 1.0)])
async def test_confidences_are_from_0_to_1(said: float, taken: float) -> None:
    thinking = Thinking()
    told = Told(first_step(weather(confidence=said)))
    async with agent_on(scripted(thinking.then()), predictors=[told]) as there:
        client = there.open(WEATHER)
        await client.send()
        await thinking.on()
        assert [each.confidence for each in client.of(PredictionProposed)] == [taken]


async def test_a_predictor_that_repeats_itself_is_heard_once() -> None:
    thinking = Thinking()
    told = Told(first_step(weather(), weather(), weather(confidence=0.5)))
    async with agent_on(scripted(thinking.then()), predictors=[told]) as there:
        client = there.open(WEATHER)
        await client.send()
        await thinking.on()
        assert len(client.of(PredictionProposed)) == 1


@pytest.mark.parametrize("answered", [True, False])
async def test_a_call_that_is_predicted_already_does_not_run_twice(answered: bool) -> None:
    thinking, reasoning = Thinking(), Pause(asyncio.Event())
    first = Told(first_step(weather()))
    second = Told(first_step(weather()), name=Predictor.HISTORY, moments=(Moment.REASONED,))
    steps = [[*thinks("hm"), reasoning, *thinks("x" * 24), *thinking.then(ROME)], says("done")]
    async with agent_on(scripted(*steps), predictors=[first, second]) as there:
        client = there.open(WEATHER)
        await client.send()
        if answered:
            await client.answer(0)
        reasoning.event.set()
        await settle()
        assert len(second.asked) == 1
        await thinking.on()
        if not answered:
            await client.answer(0)
        assert len(client.of(Invoke)) == 1
        assert reasons(client) == [DiscardReason.DUPLICATE]


async def test_in_shadow_nothing_runs_and_all_is_told() -> None:
    thinking = Thinking()
    told = Told(first_step(weather(), weather("Oslo")))
    async with agent_on(scripted(thinking.then(ROME), says("done")), predictors=[told]) as there:
        client = there.open(WEATHER, speculation=SHADOW)
        turn = await client.send()
        assert not client.of(Invoke)
        await there.advance(3.0)
        await thinking.on()
        await there.advance(2.0)
        await client.answer(0)
        assert client.ending(turn).outcome is TurnOutcome.ANSWERED
        assert set(reasons(client)) == {DiscardReason.SHADOW}
        call_id = client.of(Invoke)[0].call_id
        assert [each.call_id for each in client.of(PredictionDiscarded)] == ["", call_id]
        record = there.speculation.records.of("ann").tool("weather").of(Predictor.FORK)
        assert (record.would_save_s, record.would_waste_s) == (2.0, 1.0)
        assert (record.resolved, record.matched, record.launched) == (2, 1, 0)


async def test_without_the_conversations_consent_nothing_is_predicted() -> None:
    thinking = Thinking()
    told = Told(first_step(weather()))
    steps = [thinking.then(), thinking.then()]
    async with agent_on(scripted(*steps), predictors=[told]) as there:
        others = frozenset({Predictor.HISTORY})
        for step, asked in enumerate(
            [SpeculationRequest(mode=SpeculationMode.OFF), SpeculationRequest(predictors=others)]
        ):
            client = there.open(WEATHER, speculation=asked)
            await client.send()
            await thinking.on(step)
        assert not told.asked


async def test_events_come_only_if_they_were_asked_for() -> None:
    thinking = Thinking()
    told = Told(first_step(weather()))
    async with agent_on(scripted(thinking.then(ROME), says("done")), predictors=[told]) as there:
        client = there.open(WEATHER, speculation=SpeculationRequest())
        turn = await client.send()
        await client.answer(0)
        await thinking.on()
        assert story(client) == []
        assert client.ending(turn).report.predictions_confirmed == 1


@pytest.mark.parametrize("key", [("weather", None), ("*", Predictor.FORK)])
async def test_a_predictor_that_is_off_proposes_nothing(key: tuple[str, Predictor | None]) -> None:
    thinking = Thinking()
    told = Told(first_step(weather()))
    limits = SpeculationLimits(stages={key: SpeculationMode.OFF})
    steps = [thinking.then()]
    async with agent_on(scripted(*steps), predictors=[told], speculation=limits) as there:
        client = there.open(WEATHER)
        await client.send()
        await thinking.on()
        assert not client.of(PredictionProposed)


async def test_a_predictor_may_be_off_for_one_of_the_tools() -> None:
    thinking = Thinking()
    told = Told(first_step(weather(), proposal("time")))
    limits = SpeculationLimits(stages={("weather", Predictor.FORK): SpeculationMode.OFF})
    steps = [thinking.then()]
    async with agent_on(scripted(*steps), predictors=[told], speculation=limits) as there:
        client = there.open(WEATHER, replace(WEATHER, name="time"))
        await client.send()
        await thinking.on()
        assert [each.tool_name for each in client.of(PredictionProposed)] == ["time"]


class Crashing:
    """A predictor with a defect."""

    name = Predictor.HISTORY
    moments = frozenset({Moment.STEP_BEGAN})
    asked = 0

    async def propose(self, situation: Situation) -> AsyncGenerator[Proposal, None]:
        self.asked += 1
        yield weather("Oslo" if situation.step else "Rome")
        raise RuntimeError("a defect")


async def test_a_predictor_that_crashes_is_not_asked_again_in_this_turn() -> None:
    crashing, thinking = Crashing(), Thinking()
    steps = [thinking.then(ROME), says("done"), thinking.then()]
    async with agent_on(scripted(*steps), predictors=[crashing]) as there:
        client = there.open(WEATHER)
        turn = await client.send()
        await client.answer(0)
        await thinking.on(0)
        assert client.ending(turn).report.predictions_confirmed == 1
        assert crashing.asked == 1
        await client.send()
        assert crashing.asked == 2
        await thinking.on(1)


async def test_a_predictor_works_for_few_moments_at_the_same_time() -> None:
    slow, thinking = Slow(weather()), Thinking()
    reasoning = [item for _ in range(10) for item in (*thinks("x" * 8), TICK)]
    steps = [[*reasoning, *thinking.then()]]
    async with agent_on(scripted(*steps), predictors=[slow]) as there:
        client = there.open(WEATHER)
        await client.send()
        for _ in range(10):
            await settle()
        assert slow.asked == [Moment.STEP_BEGAN, *[Moment.REASONED] * (TASKS_MAX - 1)]
        await thinking.on()
        assert slow.ended == TASKS_MAX, "the end of the step ends its work"
        assert not client.of(PredictionProposed)


async def test_a_step_asks_again_at_each_place() -> None:
    told = Told((), name=Predictor.HISTORY, moments=[Moment.REASONED])
    long: list[Item] = [item for _ in range(130) for item in (*thinks("x" * 4), TICK)]
    async with agent_on(scripted([*long, *says("done")]), predictors=[told]) as there:
        client = there.open(WEATHER)
        await client.send()
        for _ in range(20):
            await settle()
        tokens = [each.reasoning_tokens for each in told.asked]
        places = PLACES[1 : len(tokens) + 1]
        assert places[-1] >= 512
        assert all(place <= seen < place + 8 for seen, place in zip(tokens, places, strict=True))


async def test_the_policy_learns_where_to_fork() -> None:
    """Here a branch is only right once the model has reasoned for 32 tokens."""
    forked: list[int] = []

    def branch(prompt: TokenPrompt, _spec: StepSpec) -> list[Item]:
        reasoned = prompt_text(prompt).rpartition("<think>")[2].count("x")
        forked.append(reasoned)
        return calls(ROME if reasoned >= 32 else ("weather", '{"city": "Oslo"}'))

    thinking = Thinking()
    thought = [item for _ in range(4) for item in (*thinks("x" * 8), TICK)]
    steps = [step for _ in range(40) for step in ([*thought, *thinking.then(ROME)], says("done"))]
    engine = scripted(script=in_turn(*steps, branches=branch))
    turns: list[list[int]] = []
    limits = agent_limits(messages_max=1000)
    async with agent_on(engine, limits=limits, predictors=[Fork(sure=1.1)]) as there:
        client = there.open(WEATHER)
        for number in range(40):
            forked.clear()
            await client.send()
            await settle()
            await there.advance(2.0)
            await thinking.on(number)
            await client.answer()
            turns.append(list(forked))
    assert turns[0][:3] == [0, 16, 24], "nothing is known yet"
    assert all(set(places) <= {0, 32} for places in turns[-10:])
    assert all(32 in places for places in turns[-10:])
