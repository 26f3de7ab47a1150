"""Work is done by turns of the tenants for any costs, and no piece waits for much later work."""

from __future__ import annotations

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from precall_service.admission import AdmissionLimits, FairStage
from tests.support.clock import settle

COSTS = st.integers(1, 1000)
ACTS = st.lists(
    st.tuples(st.sampled_from("abcd"), COSTS) | st.sampled_from(["end", "cancel"]), max_size=60
)


class Stage:
    """A stage with pieces of work that end, or are given up, when the test says so."""

    def __init__(self, at_once: int) -> None:
        self.at_once = at_once
        self.stage = FairStage(AdmissionLimits(prompts_at_once=at_once))
        self.doing: list[asyncio.Task[None]] = []
        self.waiting: list[asyncio.Task[None]] = []
        self.begun: list[tuple[str, int]] = []

    async def add(self, tenant: str, cost: int) -> None:
        self.waiting.append(asyncio.create_task(self._do(tenant, cost)))
        await settle()

    async def _do(self, tenant: str, cost: int) -> None:
        task = asyncio.current_task()
        assert task is not None
        async with self.stage.place(tenant, cost, begins=True):
            self.waiting.remove(task)
            self.doing.append(task)
            self.begun.append((tenant, cost))
            await asyncio.Event().wait()

    async def stop(self, task: asyncio.Task[None]) -> None:
        task.cancel()
        for tasks in (self.doing, self.waiting):
            if task in tasks:
                tasks.remove(task)
        await settle()

    def check(self) -> None:
        assert len(self.doing) <= self.at_once
        assert self.stage.waiting == len(self.waiting)
        assert not self.waiting or len(self.doing) == self.at_once, "a place is empty"


@settings(max_examples=60, deadline=None)
@given(ACTS, st.integers(1, 3))
def test_every_place_is_used_and_none_is_lost(acts: list[object], at_once: int) -> None:
    async def play() -> None:
        there = Stage(at_once)
        for act in acts:
            match act:
                case (str(tenant), int(cost)):
                    await there.add(tenant, cost)
                case "end" if there.doing:
                    await there.stop(there.doing[0])
                case "cancel" if there.waiting:
                    await there.stop(there.waiting[len(there.waiting) // 2])
                case _:
                    pass
            there.check()
        while there.doing:
            await there.stop(there.doing[0])
            there.check()
        assert there.stage.waiting == 0

    asyncio.run(play())


@settings(max_examples=60, deadline=None)
@given(st.lists(COSTS, min_size=1, max_size=30), COSTS, COSTS)
def test_tenants_with_much_work_get_equal_amounts(
    first: list[int], second: int, third: int
) -> None:
    """While all have work, no tenant is ahead of another by more than two of the largest pieces."""

    async def play() -> None:
        there = Stage(1)
        await there.add("z", 1)
        for cost in first:
            await there.add("a", cost)
        for _ in range(30):
            await there.add("b", second)
            await there.add("c", third)
        totals = {"a": sum(first), "b": 30 * second, "c": 30 * third}
        done = dict.fromkeys(totals, 0)
        largest = max(*first, second, third)
        while there.doing:
            await there.stop(there.doing[0])
            if not there.doing:
                break
            tenant, cost = there.begun[-1]
            done[tenant] += cost
            if all(done[each] < totals[each] for each in totals):
                assert max(done.values()) - min(done.values()) <= 2 * largest

    asyncio.run(play())
