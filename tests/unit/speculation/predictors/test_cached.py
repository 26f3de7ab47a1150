"""Which of the calls that the cache can answer are proposed."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from precall_service.speculation.base import PastCall, Situation
from precall_service.speculation.predictors.cached import (
    PROPOSALS_MAX,
    CachedCall,
    CachePredictor,
)
from tests.support.predictors import call, situation


def cached(query: str, uses: int = 1, tool: str = "search") -> CachedCall:
    return CachedCall(tool_name=tool, arguments_json=f'{{"query":"{query}"}}', uses=uses)


async def proposed(found: Sequence[CachedCall], *made: PastCall) -> list[tuple[str, float]]:
    async def of(_situation: Situation) -> Sequence[CachedCall]:
        return found

    where = situation("Find it.", *made)
    return [
        (each.arguments_json, each.confidence) async for each in CachePredictor(of).propose(where)
    ]


async def test_an_empty_cache_proposes_nothing() -> None:
    assert await proposed([]) == []


async def test_the_calls_that_were_made_most_often_come_first() -> None:
    found = await proposed([cached("a", 1), cached("b", 5), cached("c", 2), cached("d", 3)])
    assert [each for each, _ in found] == ['{"query":"b"}', '{"query":"d"}', '{"query":"c"}']
    assert len(found) == PROPOSALS_MAX


async def test_of_calls_made_as_often_the_most_recent_comes_first() -> None:
    found = await proposed([cached("new"), cached("old")])
    assert [each for each, _ in found] == ['{"query":"new"}', '{"query":"old"}']


async def test_confidences_are_shares_of_the_uses_and_two_more() -> None:
    assert [each for _, each in await proposed([cached("a", 1)])] == pytest.approx([1 / 3])
    many = await proposed([cached("a", 5), cached("b", 3)])
    assert [each for _, each in many] == pytest.approx([5 / 10, 3 / 10])


async def test_calls_that_the_turn_has_made_are_not_proposed() -> None:
    made = call("search", "found", query="a")
    assert [each for each, _ in await proposed([cached("a"), cached("b")], made)] == [
        '{"query":"b"}'
    ]
    assert len(await proposed([cached("a")], call("open", query="a"))) == 1


async def test_calls_of_other_tools_are_not_proposed() -> None:
    assert await proposed([cached("a", tool="gone")]) == []


async def test_arguments_that_have_no_canonical_form_match_no_call() -> None:
    made = PastCall(tool_name="search", arguments={"query": "\ud800"})
    assert len(await proposed([cached("a")], made)) == 1
