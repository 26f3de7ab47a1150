"""One frame in each pass of the event loop, tenants in turn."""

from __future__ import annotations

import asyncio
from collections import Counter

from precall_service.transport.intake import Intake
from tests.support.clock import settle


class Frames:
    """Frames that want to be processed, and the pass of the loop in which each was."""

    def __init__(self) -> None:
        self.intake = Intake()
        self.order: list[str] = []
        self.passes: list[int] = []

    async def process(self, *tenants: str) -> None:
        """Returns when a frame of each tenant was processed; all came at once."""
        counting = asyncio.create_task(self._count())
        await asyncio.gather(*(self._process(tenant) for tenant in tenants))
        counting.cancel()

    async def _process(self, tenant: str) -> None:
        await self.intake.turn(tenant)
        self.order.append(tenant)
        self.passes.append(self._pass)

    async def _count(self) -> None:
        self._pass = 0
        while True:
            self._pass += 1
            await asyncio.sleep(0)


async def test_a_pass_of_the_loop_has_one_frame() -> None:
    frames = Frames()
    await frames.process(*"a" * 20)
    assert max(Counter(frames.passes).values()) == 1
    assert frames.passes[-1] <= 22, "and no pass goes by without one"


async def test_tenants_take_turns() -> None:
    frames = Frames()
    await frames.process(*"aaaabbc")
    assert "".join(frames.order) == "abcabaa"


async def test_a_frame_that_comes_alone_does_not_wait() -> None:
    intake = Intake()
    for _ in range(3):
        await asyncio.wait_for(intake.turn("a"), timeout=None)
        await settle()
    assert not intake.waiting


async def test_frames_of_clients_that_have_left_take_no_pass() -> None:
    intake = Intake()
    waiting = [asyncio.create_task(intake.turn("a")) for _ in range(4)]
    await asyncio.sleep(0)
    assert intake.waiting == 3
    for task in waiting[1:3]:
        task.cancel()
    await settle()
    assert [task.cancelled() for task in waiting] == [False, True, True, False]
    assert all(task.done() for task in waiting)
    assert not intake.waiting
