"""When a step is forked, and how often."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace

import pytest

from precall_service.speculation.base import Branch, Candidate, Situation
from precall_service.speculation.predictors.fork import CALLS_MAX, SAMPLES, Fork
from tests.support.predictors import situation


def candidate(query: str, probability: float, tool: str = "search") -> Candidate:
    return Candidate(
        tool_name=tool, arguments_json=f'{{"query": "{query}"}}', probability=probability
    )


class Branches:
    """Branches that write what the test says, one after the other."""

    def __init__(self, *written: Sequence[Candidate]) -> None:
        self._written = iter(written)
        self.asked: list[tuple[float, int]] = []
        self.closed = 0

    async def off(self, temperature: float, calls_max: int) -> AsyncGenerator[Candidate, None]:
        self.asked.append((temperature, calls_max))
        try:
            for each in next(self._written, ()):
                yield each
        finally:
            self.closed += 1


def at(branch: Branch | None, confidence: float = 0.0) -> Situation:
    return replace(situation("Find it."), branch=branch, confidence=confidence)


async def proposed(fork: Fork, where: Situation) -> list[tuple[str, float]]:
    return [(each.arguments_json, round(each.confidence, 9)) async for each in fork.propose(where)]


def query(text: str) -> str:
    return f'{{"query": "{text}"}}'


async def test_without_a_branch_there_is_no_proposal() -> None:
    assert await proposed(Fork(), at(None)) == []


async def test_a_branch_that_writes_no_call_is_the_only_one() -> None:
    branches = Branches()
    assert await proposed(Fork(), at(branches.off)) == []
    assert branches.asked == [(0.0, CALLS_MAX)]


async def test_all_calls_of_a_sure_branch_are_proposed() -> None:
    branches = Branches([candidate("a", 0.9**5), candidate("b", 0.3**5)])
    found = await proposed(Fork(), at(branches.off))
    assert found == [(query("a"), 0.9), (query("b"), 0.3)]
    assert branches.asked == [(0.0, CALLS_MAX)], "only the first call says whether it was close"


async def test_where_the_first_choice_was_close_others_are_sampled() -> None:
    branches = Branches([candidate("a", 0.1**5)], [candidate("b", 0.3)], [candidate("c", 0.2)])
    found = await proposed(Fork(), at(branches.off))
    assert found == [(query("a"), pytest.approx(0.1)), (query("b"), 0.3), (query("c"), 0.2)]
    assert branches.asked == [(0.0, CALLS_MAX), *[(1.0, 1)] * SAMPLES]
    assert branches.closed == 1 + SAMPLES


@pytest.mark.parametrize(("confidence", "branches_made"), [(0.51, 1), (0.49, 1 + SAMPLES)])
async def test_what_is_close_can_be_set(confidence: float, branches_made: int) -> None:
    branches = Branches([candidate("a", confidence**5)])
    await proposed(Fork(close=0.5), at(branches.off))
    assert len(branches.asked) == branches_made


async def test_a_call_is_proposed_once() -> None:
    branches = Branches(
        [candidate("a", 0.1**5), candidate("a", 0.05**5)],
        [candidate("a", 0.2)],
        [candidate("a", 0.2, "open")],
    )
    found = [each.tool_name async for each in Fork().propose(at(branches.off))]
    assert found == ["search", "open"]


async def test_calls_of_no_tool_of_the_turn_are_not_proposed() -> None:
    branches = Branches([candidate("a", 0.9, "delete"), candidate("b", 0.8**5)])
    assert await proposed(Fork(), at(branches.off)) == [(query("b"), 0.8)]


@pytest.mark.parametrize(("confidence", "forked"), [(0.0, True), (0.89, True), (0.9, False)])
async def test_a_step_that_the_model_is_sure_of_is_not_forked_again(
    confidence: float, forked: bool
) -> None:
    branches = Branches([candidate("a", 0.9)])
    assert bool(await proposed(Fork(sure=0.9), at(branches.off, confidence))) is forked
    assert bool(branches.asked) is forked


async def test_a_fork_that_is_closed_closes_its_branch() -> None:
    branches = Branches([candidate("a", 0.4), candidate("b", 0.4)])
    proposals = Fork().propose(at(branches.off))
    await anext(proposals)
    assert branches.closed == 0
    await proposals.aclose()
    assert branches.closed == len(branches.asked) == 1
