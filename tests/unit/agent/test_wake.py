"""One coroutine waits, and looks first whether it has to."""

from __future__ import annotations

import asyncio

import pytest

from precall_service.agent.wake import Wake
from tests.support.clock import settle


async def test_a_wake_ends_the_wait() -> None:
    wake = Wake()
    waiting = asyncio.create_task(wake.wait())
    await settle()
    assert not waiting.done()
    wake.set()
    wake.set()
    await asyncio.wait_for(waiting, 5)


async def test_a_wake_that_nothing_waits_for_is_not_kept() -> None:
    wake = Wake()
    wake.set()
    waiting = asyncio.create_task(wake.wait())
    await settle()
    assert not waiting.done()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_it_can_be_waited_for_again() -> None:
    wake = Wake()
    for _ in range(3):
        waiting = asyncio.create_task(wake.wait())
        await settle()
        wake.set()
        await asyncio.wait_for(waiting, 5)
