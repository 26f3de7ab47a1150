"""Pieces of work are done a few at a time, and the next is that of a tenant with little work."""

from __future__ import annotations

import asyncio

import pytest

from precall_service.admission import AdmissionLimits, FairStage
from precall_service.domain.errors import Reason, ServiceError
from tests.support.clock import settle


class Work:
    """Pieces of work in a stage. Each is done when the test says so; `order` has those begun."""

    def __init__(self, **limits: int) -> None:
        self.stage = FairStage(AdmissionLimits(**limits))
        self.order: list[str] = []
        self.pieces: dict[str, asyncio.Task[None]] = {}
        self._ends: dict[str, asyncio.Event] = {}

    async def add(self, name: str, cost: float = 1, *, begins: bool = True) -> None:
        """Adds a piece of the tenant that the name begins with, as in "ann 1"."""
        self._ends[name] = asyncio.Event()
        self.pieces[name] = asyncio.create_task(self._do(name, cost, begins=begins))
        await settle()

    async def _do(self, name: str, cost: float, *, begins: bool) -> None:
        async with self.stage.place(name.partition(" ")[0], cost, begins=begins):
            self.order.append(name)
            await self._ends[name].wait()

    async def end(self, name: str) -> None:
        self._ends[name].set()
        await settle()

    async def cancel(self, name: str) -> None:
        self.pieces[name].cancel()
        await settle()

    async def end_all(self) -> list[str]:
        """Ends all pieces in the order in which they begin. Returns that order."""
        for name in self.order:  # which grows
            await self.end(name)
        assert all(piece.done() for piece in self.pieces.values())
        assert self.stage.waiting == 0
        return self.order


async def test_so_many_are_done_at_once_as_is_allowed() -> None:
    work = Work(prompts_at_once=2)
    for name in ("ann 1", "ann 2", "ann 3"):
        await work.add(name)
    assert (work.order, work.stage.waiting) == (["ann 1", "ann 2"], 1)
    assert await work.end_all() == ["ann 1", "ann 2", "ann 3"]


async def test_tenants_take_turns() -> None:
    work = Work()
    for name in ("ann 1", "ann 2", "ann 3", "bob 1", "bob 2"):
        await work.add(name)
    assert await work.end_all() == ["ann 1", "ann 2", "bob 1", "ann 3", "bob 2"]


async def test_a_small_piece_goes_before_the_large_ones_of_others() -> None:
    """A thousand messages of a megabyte made the next turn of another tenant wait for seconds."""
    work = Work()
    for number in range(100):
        await work.add(f"hostile {number}", 1e6)
    await work.add("victim 1", 100)
    await work.end("hostile 0")
    assert work.order == ["hostile 0", "victim 1"]
    await work.end_all()


async def test_large_pieces_of_new_tenants_do_not_go_before_a_small_one() -> None:
    work = Work()
    for number in range(100):
        await work.add(f"invented-{number} 1", 1e6)
    await work.add("victim 1", 100)
    await work.end("invented-0 1")
    assert work.order[-1] == "victim 1"
    await work.end_all()


async def test_a_large_piece_waits_for_a_bounded_amount_of_later_work() -> None:
    work = Work()
    await work.add("small 0", 100)
    await work.add("large 1", 1000)
    number = 0
    while "large 1" not in work.order:
        await work.add(f"small {number + 1}", 100)
        await work.end(f"small {number}")
        number += 1
        assert number <= 10
    await work.end("large 1")
    await work.end(f"small {number}")
    await work.end_all()


async def test_a_tenant_that_did_much_long_ago_does_not_wait_for_that() -> None:
    work = Work()
    for number in range(50):
        await work.add(f"ann {number}", 1000)
        await work.end(f"ann {number}")
    await work.add("bob 1", 10)
    await work.add("ann last", 10)
    await work.add("bob 2", 10)
    assert (await work.end_all())[-3:] == ["bob 1", "ann last", "bob 2"]


@pytest.mark.parametrize("when", ["waiting", "begun", "called"])
async def test_a_piece_that_is_given_up_leaves_its_place(when: str) -> None:
    work = Work()
    await work.add("ann 1")
    await work.add("ann 2")
    await work.add("ann 3")
    match when:
        case "waiting":
            await work.cancel("ann 2")
            await work.end("ann 1")
        case "begun":
            await work.end("ann 1")
            await work.cancel("ann 2")
        case _:  # given up in the moment in which it is called
            work.pieces["ann 1"].cancel()
            await asyncio.sleep(0)
            await work.cancel("ann 2")
    assert work.order[-1] == "ann 3"
    await work.end("ann 3")
    assert work.stage.waiting == 0
    await work.add("bob 1")
    assert work.order[-1] == "bob 1"
    await work.end("bob 1")


async def test_a_piece_that_fails_leaves_its_place() -> None:
    stage = FairStage(AdmissionLimits())
    for _ in range(3):
        with pytest.raises(ValueError, match="no"):
            async with stage.place("ann", 1, begins=True):
                raise ValueError("no")


async def test_too_many_turns_are_refused_but_not_those_that_have_begun() -> None:
    work = Work(waiting_per_tenant_max=2)
    for number in range(3):
        await work.add(f"ann {number}")
    await work.add("ann late")
    error = work.pieces["ann late"].exception()
    assert isinstance(error, ServiceError)
    assert error.reason is Reason.OVERLOADED
    await work.add("ann begun", begins=False)
    await work.add("bob 1")
    del work.pieces["ann late"]
    assert set(await work.end_all()) == {"ann 0", "ann 1", "ann 2", "ann begun", "bob 1"}


async def test_nothing_is_kept_of_pieces_that_were_given_up() -> None:
    work = Work(waiting_per_tenant_max=1 << 20, waiting_max=1 << 20)
    await work.add("ann 0")
    for number in range(500):
        await work.add(f"tenant-{number} 1")
        await work.cancel(f"tenant-{number} 1")
    assert len(work.stage._heap) <= 70  # pyright: ignore[reportPrivateUsage]
    for number in range(100):
        await work.add(f"tenant-{number} 2")
    await work.end_all()
    await work.add("bob 1")
    await work.end("bob 1")
    assert len(work.stage._tags) <= 70  # pyright: ignore[reportPrivateUsage]
