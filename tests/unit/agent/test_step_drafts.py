"""Predicted calls become drafts of the step that they are predicted for."""

from __future__ import annotations

from dataclasses import replace

import pytest

from precall_service.agent.step_drafts import DRAFTS_MAX
from precall_service.domain.speculation import SpeculationSettings
from precall_service.engine.base import Feature, StepSpec
from precall_service.engine.drafts import Draft
from precall_service.speculation.limits import SpeculationLimits
from tests.support.agent import agent_on, scripted
from tests.support.clock import settle
from tests.support.scripted_engine import INFO, ScriptedEngine
from tests.support.scripts import says
from tests.support.speculating import BOOK, WEATHER, Thinking, Told, first_step, proposal, weather

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


async def test_no_call_is_drafted_if_drafts_are_off() -> None:
    most = SpeculationSettings(verify_drafts=False)
    assert await drafted(Told(first_step(weather())), most=most) == [[]]
