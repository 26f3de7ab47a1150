"""The contract of every predictor: what it proposes, and what it leaves behind.

A new predictor is added to `tests.support.predictors.SUBJECTS`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace

import pytest

from precall_service.domain.events import Predictor as PredictorName
from precall_service.domain.json import canonical, parse_object
from precall_service.speculation.base import Moment, Proposal, Situation
from tests.support.predictors import SUBJECTS, Subject

PROPOSALS_MAX = 16
"""More proposals at one moment would be ignored by any budget."""


@pytest.fixture(params=list(SUBJECTS))
async def subject(request: pytest.FixtureRequest) -> AsyncGenerator[Subject]:
    async with SUBJECTS[request.param]() as subject:
        yield subject


async def proposals(subject: Subject, situation: Situation) -> list[Proposal]:
    return [each async for each in subject.predictor.propose(situation)]


async def test_it_has_a_name_and_moments(subject: Subject) -> None:
    assert subject.predictor.name is not PredictorName.UNSPECIFIED
    assert subject.predictor.moments
    assert subject.predictor.moments == subject.situations.keys()


async def test_it_proposes_calls_of_the_tools_that_there_are(subject: Subject) -> None:
    for moment, situation in subject.situations.items():
        found = await proposals(subject, situation)
        assert found, moment
        assert len(found) <= PROPOSALS_MAX
        for each in found:
            assert each.tool_name in situation.tools
            parse_object(each.arguments_json)
            assert 0.0 <= each.confidence <= 1.0


async def test_the_most_probable_call_is_the_first(subject: Subject) -> None:
    for situation in subject.situations.values():
        confidences = [each.confidence for each in await proposals(subject, situation)]
        assert confidences == sorted(confidences, reverse=True)


async def test_it_proposes_no_call_twice(subject: Subject) -> None:
    for situation in subject.situations.values():
        found = await proposals(subject, situation)
        calls = {(each.tool_name, canonical(parse_object(each.arguments_json))) for each in found}
        assert len(calls) == len(found)


async def test_it_proposes_nothing_of_tools_that_are_gone(subject: Subject) -> None:
    for situation in subject.situations.values():
        assert await proposals(subject, replace(situation, tools={})) == []


async def test_equal_situations_have_equal_proposals(subject: Subject) -> None:
    for situation in subject.situations.values():
        first = await proposals(subject, situation)
        assert await proposals(subject, replace(situation)) == first


async def test_it_serves_several_turns_at_once(subject: Subject) -> None:
    for situation in subject.situations.values():
        alone = await proposals(subject, situation)
        together = await asyncio.gather(*(proposals(subject, situation) for _ in range(3)))
        assert together == [alone] * 3


@pytest.mark.parametrize("taken", [0, 1])
async def test_closing_early_leaves_nothing_running(subject: Subject, taken: int) -> None:
    before = asyncio.all_tasks()
    for situation in subject.situations.values():
        generator = subject.predictor.propose(situation)
        for _ in range(taken):
            await anext(generator)
        await generator.aclose()
        assert asyncio.all_tasks() == before


async def test_a_cancel_leaves_nothing_running(subject: Subject) -> None:
    before = asyncio.all_tasks()
    for situation in subject.situations.values():
        task = asyncio.create_task(proposals(subject, situation))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert asyncio.all_tasks() == before


async def test_it_knows_nothing_of_other_tenants(subject: Subject) -> None:
    """What comes from the situation alone is the same for every tenant."""
    for situation in subject.situations.values():
        known = [] if subject.remembers else await proposals(subject, situation)
        assert await proposals(subject, replace(situation, tenant="eve")) == known


async def test_it_is_asked_at_known_moments_only(subject: Subject) -> None:
    assert all(situation.moment is moment for moment, situation in subject.situations.items())
    assert subject.predictor.moments <= set(Moment)
