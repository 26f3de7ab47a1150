"""A bound by the clock behaves as `asyncio.timeout` does."""

from __future__ import annotations

import asyncio

import pytest

from precall_service.loop_clock import LoopClock
from precall_service.tools.timeout import within
from tests.support.clock import ManualClock, settle


async def test_ends_the_block_when_its_time_has_come() -> None:
    clock = ManualClock()

    async def wait() -> None:
        async with within(clock, 2.0):
            await asyncio.Event().wait()

    waiting = asyncio.create_task(wait())
    await settle()
    clock.advance(1.9)
    await settle()
    assert not waiting.done()
    clock.advance(0.1)
    with pytest.raises(TimeoutError):
        await waiting


async def test_cancel_stays_a_cancel() -> None:
    clock = ManualClock()

    async def wait() -> None:
        async with within(clock, 2.0):
            await asyncio.Event().wait()

    waiting = asyncio.create_task(wait())
    await settle()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert clock.pending == 0


async def test_leaves_no_timer_behind() -> None:
    clock = ManualClock()
    async with within(clock, 2.0):
        pass
    assert clock.pending == 0
    clock.advance(3.0)


async def test_real_clock() -> None:
    clock = LoopClock()
    before = clock.now()
    with pytest.raises(TimeoutError):
        async with within(clock, 0.01):
            await asyncio.Event().wait()
    assert clock.now() - before >= 0.009
