"""Places are neither lost nor doubled when a cancel and a free place meet."""

from __future__ import annotations

import asyncio

import pytest

from precall_service.tools.gate import Gate
from tests.support.clock import settle


async def test_place_that_came_with_the_cancel_goes_to_the_next() -> None:
    gate = Gate()
    await gate.enter(1)
    first, second = (asyncio.create_task(gate.enter(1)) for _ in range(2))
    await settle()
    gate.leave()
    first.cancel()
    await settle()
    assert first.cancelled()
    assert second.done()
    gate.leave()
    assert gate.idle


async def test_cancelled_one_that_still_stands_in_the_queue_is_passed_over() -> None:
    gate = Gate()
    await gate.enter(1)
    first, second = (asyncio.create_task(gate.enter(1)) for _ in range(2))
    await settle()
    first.cancel()
    gate.leave()
    await settle()
    assert first.cancelled()
    assert second.done()
    gate.leave()
    assert gate.idle


@pytest.mark.parametrize(("places", "running"), [(1, 2), (3, 3), (4, 4)])
async def test_places_follow_the_latest_declaration(places: int, running: int) -> None:
    gate = Gate()
    for _ in range(2):
        await gate.enter(2)
    waiting = [asyncio.create_task(gate.enter(2)) for _ in range(4)]
    await settle()
    late = asyncio.create_task(gate.enter(places))
    await settle()
    assert 2 + sum(each.done() for each in waiting) == running
    assert not late.done()
    for each in (*waiting, late):
        each.cancel()
