"""Predicted calls become drafts of the step that they are predicted for."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from precall_service.agent.step_drafts import DRAFTS_MAX
from precall_service.domain.events import (
    DiscardReason,
    Invoke,
    PredictionConfirmed,
    PredictionDiscarded,
    Predictor,
    ResultSource,
    ToolCallCompleted,
)
from precall_service.domain.speculation import SpeculationMode, SpeculationSettings
from precall_service.engine.base import Feature, StepSpec
from precall_service.engine.drafts import Draft
from precall_service.speculation.base import Moment
from precall_service.speculation.limits import SpeculationLimits
from precall_service.speculation.places import WINS_FIRST, Place
from precall_service.speculation.predictors.fork import Fork
from tests.support.agent import Agent, agent_on, scripted
from tests.support.clock import settle
from tests.support.scripted_engine import INFO, ScriptedEngine
from tests.support.scripts import TICK, Pause, calls, says, thinks
from tests.support.speculating import (
    ALWAYS,
    BOOK,
    WEATHER,
    Thinking,
    Told,
    first_step,
    following,
    proposal,
    weather,
)

ROME = Draft("weather", '{"city":"Rome"}')


async def drafted(
    told: Told, engine: ScriptedEngine | None = None, most: SpeculationSettings | None = None
) -> list[list[Draft]]:
    """The drafts of each step of a turn whose first step makes a call, and whose second answers."""
    thinking = Thinking()
    engine = engine or scripted(thinking.then(("book", '{"city": "Oslo"}')), says("done"))
    limits = SpeculationLimits(most=most or SpeculationSettings())
    async with agent_on(engine, predictors=[told], speculation=limits) as there:
        client = there.open(WEATHER, BOOK)
        await client.send()
        await settle()
        return [staged(engine, spec) for spec in engine.specs]


def start_of(there: Agent, tool_name: str) -> Place:
    """What is known of branches from the start of turns with this tool."""
    branches = there.speculation.records.of("ann").branches(frozenset({tool_name}), first_step=True)
    return branches.at(0)


def staged(engine: ScriptedEngine, spec: StepSpec) -> list[Draft]:
    """The drafts of a step, without their ids."""
    return [replace(each, draft_id="") for each in engine.drafts.get(spec.step_id, [])]


async def test_a_predicted_call_is_drafted_in_canonical_form() -> None:
    assert await drafted(Told(first_step(weather()))) == [[ROME]]


async def test_a_call_of_a_tool_that_may_not_run_early_is_drafted_too() -> None:
    """A draft runs nothing."""
    assert await drafted(Told(first_step(proposal("book")))) == [[Draft("book", '{"city":"Rome"}')]]


async def test_the_same_call_is_drafted_once() -> None:
    assert await drafted(Told(first_step(weather(), weather()))) == [[ROME]]


async def test_a_call_that_is_hardly_likely_is_not_drafted() -> None:
    assert await drafted(Told(first_step(weather(confidence=0.0)))) == [[]]


@pytest.mark.parametrize(("windows", "sure", "unsure"), [(0, 1, 1), (1, 1, 0), (2, 0, 0)])
async def test_the_slower_tokens_come_the_surer_a_draft_has_to_be(
    windows: int, sure: int, unsure: int
) -> None:
    thinking = Thinking()
    engine = scripted(thinking.then(), thinking.then())
    told = Told(first_step(weather("Rome"), weather("Oslo", confidence=0.3)))
    async with agent_on(engine, predictors=[told], token_latency_s=0.05) as there:
        for _ in range(windows):
            there.clock.advance(10.0)
            there.admission.observe_tokens(1e3, 1000, speculating=True)
        await there.open(WEATHER).send()
        [spec] = engine.specs
        texts = [draft.arguments_json for draft in engine.drafts.get(spec.step_id, [])]
        assert [sum(city in text for text in texts) for city in ("Rome", "Oslo")] == [sure, unsure]


async def test_a_step_has_a_bounded_number_of_drafts() -> None:
    cities = [weather(f"City {number}") for number in range(DRAFTS_MAX)]
    told = Told(first_step(*cities))
    [drafts] = await drafted(told)
    assert len(drafts) == DRAFTS_MAX


async def test_an_engine_that_verifies_no_drafts_gets_none() -> None:
    thinking = Thinking()
    info = replace(INFO, features=INFO.features - {Feature.DRAFTS})
    engine = ScriptedEngine([thinking.then(), says("done")], info)
    assert await drafted(Told(first_step(weather())), engine) == [[]]


NOT_WANTED = {
    "drafts are off": SpeculationSettings(verify_drafts=False),
    "predictions are only scored": SpeculationSettings(mode=SpeculationMode.SHADOW),
    "nothing is predicted": SpeculationSettings(mode=SpeculationMode.OFF),
}


@pytest.mark.parametrize("most", NOT_WANTED.values(), ids=NOT_WANTED)
async def test_no_call_is_drafted_that_should_not_be(most: SpeculationSettings) -> None:
    assert await drafted(Told(first_step(weather())), most=most) == [[]]


async def test_a_call_that_is_written_is_not_drafted() -> None:
    written = Told([weather()], name=Predictor.EARLY_DISPATCH, moments=[Moment.CALL_WRITTEN])
    engine = scripted([*calls(("weather", '{"city": "Rome"}')), TICK, TICK], says("done"))
    async with agent_on(engine, predictors=[written]) as there:
        client = there.open(WEATHER)
        await client.send()
        await client.answer(0)
    assert written.asked
    assert not engine.drafts


async def test_what_was_predicted_for_a_later_step_is_drafted_in_that_step() -> None:
    """The chain of reads ahead of the model."""
    thinking = Thinking()
    told = Told(following(weather("Rome"), weather("Oslo")), moments=ALWAYS)
    rome = ("weather", '{"city": "Rome"}')
    engine = scripted(thinking.then(rome), thinking.then())
    async with agent_on(engine, predictors=[told]) as there:
        client = there.open(WEATHER)
        await client.send()
        await client.answer(0)
        await thinking.on(0)
        first, second = engine.specs
        assert staged(engine, first) == [ROME]
        assert staged(engine, second) == [replace(ROME, arguments_json='{"city":"Oslo"}')]
        await thinking.on(1)


# Where no tool may run early, calls are predicted for the drafts alone.


async def test_predictors_are_asked_for_tools_that_may_not_run_early() -> None:
    told = Told(first_step(proposal("book")))
    thinking = Thinking()
    engine = scripted(thinking.then(("book", '{"city": "Rome"}')), says("done"))
    async with agent_on(engine, predictors=[told]) as there:
        client = there.open(BOOK)
        await client.send()
        await settle()
        [spec] = engine.specs
        assert staged(engine, spec) == [Draft("book", '{"city":"Rome"}')]
        assert not client.of(Invoke), "nothing runs early"
        await thinking.on()
        await client.answer(0)
        [ended] = client.of(PredictionDiscarded)
        [completed] = client.of(ToolCallCompleted)
        assert (ended.reason, ended.call_id) == (DiscardReason.NOT_ELIGIBLE, completed.call_id)
        assert completed.source is ResultSource.COMMITTED


@pytest.mark.parametrize("most", NOT_WANTED.values(), ids=NOT_WANTED)
async def test_they_are_not_asked_if_nothing_would_be_drafted(most: SpeculationSettings) -> None:
    told = Told(first_step(proposal("book")))
    engine = scripted(says("done"))
    limits = SpeculationLimits(most=most)
    async with agent_on(engine, predictors=[told], speculation=limits) as there:
        await there.open(BOOK).send()
    assert not told.asked


async def test_they_are_not_asked_if_the_engine_verifies_no_drafts() -> None:
    told = Told(first_step(proposal("book")))
    info = replace(INFO, features=INFO.features - {Feature.DRAFTS})
    async with agent_on(ScriptedEngine([says("done")], info), predictors=[told]) as there:
        await there.open(BOOK).send()
    assert not told.asked


async def test_written_calls_of_tools_that_may_not_run_early_are_not_predicted() -> None:
    """They need not be drafted."""
    told = Told([], name=Predictor.EARLY_DISPATCH, moments=ALWAYS)
    engine = scripted(calls(("book", '{"city": "Rome"}')), says("done"))
    async with agent_on(engine, predictors=[told]) as there:
        client = there.open(BOOK)
        await client.send()
        await client.answer(0)
    assert not told.asked


@pytest.mark.parametrize(("saved_s", "forks"), [(None, 1), (0.0, 0), (2.0, 1)])
async def test_a_step_is_forked_for_drafts_until_they_are_known_not_to_pay(
    saved_s: float | None, forks: int
) -> None:
    thinking = Thinking()
    engine = scripted(thinking.then(), says("done"))
    async with agent_on(engine, predictors=[Fork()]) as there:
        client = there.open(BOOK)
        place = start_of(there, "book")
        for _ in range(100 if saved_s is not None else 0):
            place.begin()
            place.propose(takes_s=10.0, lead_s=1.0)
            place.save(saved_s or 0.0)
        await client.send()
        await settle()
        assert len(engine.specs) == 1 + forks
        await thinking.on()


async def test_what_the_draft_of_a_wrong_call_saves_counts_for_its_branch() -> None:
    """At a token a second, the call's tokens came at once."""
    told, slow, thinking = Told(first_step(weather())), Pause(asyncio.Event()), Thinking()
    step = [*thinks("a"), slow, *thinks("b"), *thinking.then(("weather", '{"city": "Oslo"}'))]
    engine = scripted(step, says("done"))
    engine.verified = {"weather": (20, 15)}
    async with agent_on(engine, predictors=[told]) as there:
        place = start_of(there, "weather")
        before_s = place.draft_saves_s
        client = there.open(WEATHER)
        turn = await client.send()
        await there.advance(1.0)
        slow.event.set()
        await settle()
        await thinking.on()
        await client.answer(-1)
        [drafts] = client.ending(turn).report.drafts
        assert drafts.saved_s > 5.0
        assert place.win_rate <= WINS_FIRST
        assert place.draft_saves_s > before_s + 1.0


# What became of drafts.


async def test_what_became_of_drafts_is_told_everywhere() -> None:
    thinking = Thinking()
    told = Told(first_step(weather(), proposal("book")))
    engine = scripted(thinking.then(("weather", '{"city": "Rome"}')), says("done"))
    engine.verified = {"weather": (20, 15), "book": (30, 2), "": (5, 5)}
    async with agent_on(engine, predictors=[told]) as there:
        client = there.open(WEATHER, BOOK)
        turn = await client.send()
        await client.answer(0)
        await thinking.on()
        [confirmed] = client.of(PredictionConfirmed)
        [discarded] = client.of(PredictionDiscarded)
        report = client.ending(turn).report
        record = there.speculation.records.of("ann").tool("weather").of(Predictor.FORK)
    assert (confirmed.draft_tokens_proposed, confirmed.draft_tokens_accepted) == (20, 15)
    assert (discarded.draft_tokens_proposed, discarded.draft_tokens_accepted) == (30, 2)
    assert (record.draft_tokens_proposed, record.draft_tokens_accepted) == (20, 15)
    # The end of a call is drafted in both steps.
    assert (report.draft_tokens_proposed, report.draft_tokens_accepted) == (60, 27)
    assert report.draft_tokens_wasted == 33
    counts = {
        (each.predictor, each.tool_name): (
            each.tokens_proposed,
            each.tokens_accepted,
            each.tokens_wasted,
        )
        for each in report.drafts
    }
    assert counts == {
        (Predictor.FORK, "weather"): (20, 15, 5),
        (Predictor.FORK, "book"): (30, 2, 28),
        (None, ""): (10, 10, 0),
    }


async def test_what_two_predictors_have_predicted_counts_for_the_first() -> None:
    thinking = Thinking()
    told = [Told(first_step(weather()), name=each) for each in (Predictor.FORK, Predictor.HISTORY)]
    engine = scripted(thinking.then(), says("done"))
    engine.verified = {"weather": (20, 0)}
    async with agent_on(engine, predictors=told) as there:
        client = there.open(WEATHER)
        turn = await client.send()
        await thinking.on()
        [drafts] = client.ending(turn).report.drafts
    assert (drafts.predictor, drafts.tokens_wasted) == (Predictor.FORK, 20)
