"""Tenants take turns, whatever each of them waits with."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from precall_service.fair_turns import FairLine, FairTurns
from tests.support.clock import settle


async def test_a_tenant_waits_for_one_turn_of_each_other() -> None:
    turns, order = FairTurns(), list[str]()
    begin = asyncio.Event()

    async def use(tenant: str) -> None:
        async with turns.of(tenant):
            await begin.wait()
            order.append(tenant)

    async with asyncio.TaskGroup() as group:
        for tenant in "aaaaabbc":
            group.create_task(use(tenant))
        await settle()
        begin.set()
    assert "".join(order) == "abcabaaa"


async def test_a_turn_is_given_on_by_whoever_is_cancelled() -> None:
    turns = FairTurns()

    async def use(tenant: str) -> None:
        async with turns.of(tenant):
            await asyncio.Event().wait()

    holder, waiting = [asyncio.create_task(use(tenant)) for tenant in "ab"]
    await settle()
    for task in (holder, waiting):
        task.cancel()
    await asyncio.wait([holder, waiting])
    async with asyncio.timeout(5), turns.of("c"):
        pass
    assert (turns.taken, turns.waiting) == (0, 0)


async def test_a_turn_that_was_cancelled_as_it_began_is_given_on() -> None:
    turns = FairTurns()
    await turns.begin("a")
    late, last = [asyncio.create_task(turns.begin(tenant)) for tenant in "bc"]
    await settle()
    turns.end()  # late's begins
    late.cancel()
    await settle()
    assert late.cancelled()
    assert last.done()
    turns.end()
    assert (turns.taken, turns.waiting) == (0, 0)


async def test_so_many_at_once() -> None:
    turns = FairTurns(at_once=2)
    tasks = [asyncio.create_task(turns.begin(tenant)) for tenant in "aaab"]
    await settle()
    assert (turns.taken, turns.waiting, turns.waiting_of("a")) == (2, 2, 1)
    turns.end()
    await settle()
    assert [task.done() for task in tasks] == [True, True, False, True]
    tasks[2].cancel()


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=60))
def test_no_tenant_is_served_twice_while_another_waits(acts: list[tuple[str, bool]]) -> None:
    line, waiting, number = FairLine[int](), list[tuple[str, int]](), 0
    served: list[str] = []
    waited_since: dict[str, int] = {}
    for tenant, comes in acts:
        if comes:
            number += 1
            line.add(tenant, number)
            waiting.append((tenant, number))
            waited_since.setdefault(tenant, len(served))
        elif waiting:
            whose, item = line.next()
            assert item == min(n for t, n in waiting if t == whose), "in order of arrival"
            waiting.remove((whose, item))
            served.append(whose)
            for other, since in waited_since.items():
                assert other == whose or served[since:].count(whose) <= 1
            waited_since.pop(whose)
            if any(t == whose for t, _ in waiting):
                waited_since[whose] = len(served)
        assert len(line) == len(waiting)
        assert line.waiting_of(tenant) == sum(t == tenant for t, _ in waiting)


def test_what_is_no_longer_wanted_is_not_served() -> None:
    line = FairLine[str]()
    for item in ("first", "second"):
        line.add("a", item)
    line.discard("a", "first")
    line.discard("a", "first")
    line.discard("b", "none")
    assert line.next() == ("a", "second")
    with pytest.raises(LookupError):
        line.next()
