"""What the samples of a draft model come to: which calls are proposed, when, and how surely."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace

import pytest

from precall_service.speculation.base import SampledCall, Situation
from precall_service.speculation.predictors.draft_model import PROPOSALS_MAX, DraftModelPredictor
from tests.support.predictors import situation

Calls = Sequence[tuple[str, str]]


def query(text: str) -> tuple[str, str]:
    return "search", f'{{"query": "{text}"}}'


def opened(text: str) -> tuple[str, str]:
    return "open", f'{{"id": "{text}"}}'


class Samples:
    """Samples that a draft model writes one after the other."""

    def __init__(self, *written: Calls) -> None:
        self._written = written
        self.asked: list[int] = []
        self.taken = 0
        self.closed = 0

    async def of(self, count: int) -> AsyncGenerator[SampledCall, None]:
        self.asked.append(count)
        try:
            for number, calls in enumerate(self._written):
                self.taken += 1
                for each in (*calls, None):
                    yield SampledCall(number, each)
        finally:
            self.closed += 1


def at(samples: Samples) -> Situation:
    return replace(situation("Find it."), samples=samples.of)


async def proposed(samples: Samples, count: int) -> list[tuple[str, float]]:
    proposals = DraftModelPredictor(count).propose(at(samples))
    return [(each.arguments_json, round(each.confidence, 3)) async for each in proposals]


async def test_without_a_draft_model_there_is_no_proposal() -> None:
    assert [each async for each in DraftModelPredictor(3).propose(situation("Find it."))] == []


@pytest.mark.parametrize("count", [1, 3, 5, 7, 9])
async def test_the_model_is_asked_as_often_as_is_set(count: int) -> None:
    samples = Samples(*[[query("a")]] * count)
    found = await proposed(samples, count)
    assert samples.asked == [count]
    assert found == [('{"query":"a"}', round((count // 2 + 1) / count, 3))]
    assert samples.closed == 1


async def test_calls_are_ranked_by_how_many_samples_have_them() -> None:
    samples = Samples([query("c")], [query("b")], [query("a")], [query("b")], [])
    assert await proposed(samples, 5) == [
        ('{"query":"b"}', 0.4),
        ('{"query":"c"}', 0.2),
        ('{"query":"a"}', 0.2),
    ]


async def test_what_most_samples_have_is_proposed_before_the_last_one() -> None:
    samples = Samples([query("a"), query("b")], [query("a")], [query("b")])
    proposals = DraftModelPredictor(3).propose(at(samples))
    first = await anext(proposals)
    assert (first.arguments_json, samples.taken) == ('{"query":"a"}', 2)
    rest = [(each.arguments_json, round(each.confidence, 3)) async for each in proposals]
    assert rest == [('{"query":"b"}', 0.667)]


async def test_equal_arguments_are_one_call_however_they_are_written() -> None:
    samples = Samples(
        [("search", '{"query": "a", "page": 1}')], [("search", '{"page":1.0,"query":"\\u0061"}')]
    )
    assert await proposed(samples, 3) == [('{"page":1,"query":"a"}', 0.667)]


async def test_a_call_counts_once_in_each_sample() -> None:
    samples = Samples([query("a")] * 3, [query("b")], [])
    assert await proposed(samples, 5) == [('{"query":"a"}', 0.333), ('{"query":"b"}', 0.333)]


@pytest.mark.parametrize(
    "garbage",
    [
        ("delete", '{"id": "1"}'),
        ("search", '{"query": '),
        ("search", "[1]"),
        ("search", '{"query": "\\ud800"}'),
        ("search", '{"query": 1e999}'),
        ("", "{}"),
    ],
)
async def test_garbage_is_left_out(garbage: tuple[str, str]) -> None:
    assert await proposed(Samples([garbage, query("a")]), 1) == [('{"query":"a"}', 1.0)]


async def test_where_fewer_samples_are_written_their_share_counts() -> None:
    assert await proposed(Samples([query("a")], [query("a")]), 9) == [('{"query":"a"}', 1.0)]
    assert await proposed(Samples(), 9) == []


async def test_there_are_not_too_many_proposals() -> None:
    samples = Samples(*([opened(f"{number}-{each}") for each in range(4)] for number in range(9)))
    assert len(await proposed(samples, 9)) == PROPOSALS_MAX


async def test_a_predictor_that_is_closed_closes_the_samples() -> None:
    samples = Samples([query("a")], [query("b")])
    proposals = DraftModelPredictor(1).propose(at(samples))
    await anext(proposals)
    assert samples.closed == 0
    await proposals.aclose()
    assert samples.closed == 1
