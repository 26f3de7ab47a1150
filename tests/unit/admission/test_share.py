"""A share: given up while tools are slow, taken back, and returned at the end of the turn."""

from __future__ import annotations

import asyncio

import pytest

from precall_service.admission import Share
from tests.support.clock import settle
from tests.support.door import HOLD_S, Door, admitted

# The hold time.


async def test_tools_that_answer_in_time_cost_nothing() -> None:
    door = Door(slots=1)
    share = door.enter()
    waiting = door.enter()
    for _ in range(3):
        share.pause()
        door.clock.advance(HOLD_S - 0.001)
        await share.resume()
        assert admitted(share)
        assert door.clock.pending == 0
    door.clock.advance(10 * HOLD_S)
    assert admitted(share), "the hold time does not run while the turn generates"
    assert not admitted(waiting)


async def test_a_share_is_given_up_after_the_hold_time_only() -> None:
    door = Door(slots=1)
    share, waiting = door.enter(), door.enter()
    share.pause()
    door.clock.advance(HOLD_S - 0.001)
    assert not admitted(waiting)
    door.clock.advance(0.001)
    assert admitted(waiting)
    assert door.counts == (1, 0)
    assert door.clock.pending == 0


async def test_pausing_again_does_not_prolong_the_hold_time() -> None:
    door = Door(slots=1)
    share = door.enter()
    share.pause()
    door.clock.advance(HOLD_S / 2)
    share.pause()
    door.clock.advance(HOLD_S / 2)
    assert not admitted(share)
    assert door.clock.pending == 0


async def test_a_parked_turn_returns_at_once_if_there_is_room() -> None:
    door = Door(slots=1)
    share = door.enter()
    await door.park(share)
    await share.resume()
    assert admitted(share)
    assert door.counts == (1, 0)


async def test_a_parked_turn_returns_ahead_of_its_tenants_new_ones() -> None:
    door = Door(slots=1)
    slow = door.enter()
    await door.park(slow)
    running, new = door.enter(), door.enter()
    coming_back = asyncio.create_task(slow.resume())
    await settle()
    assert not coming_back.done()
    door.release(running)
    await coming_back
    assert admitted(slow)
    assert not admitted(new)


async def test_parked_turns_return_in_the_order_of_their_results() -> None:
    door = Door(slots=1)
    first = door.enter()
    await door.park(first)
    second = door.enter()
    await door.park(second)
    running = door.enter()
    returning = [asyncio.create_task(share.resume()) for share in (second, first)]
    await settle()
    door.release(running)
    await returning[0]
    assert admitted(second)
    door.release(second)
    await returning[1]
    assert admitted(first)


async def test_a_share_that_grew_while_parked_returns_with_its_size() -> None:
    door = Door(slots=10, kv_tokens=1000)
    slow = door.enter(100)
    await door.park(slow)
    slow.grow(900)
    other = door.enter(200)
    coming_back = asyncio.create_task(slow.resume())
    await settle()
    assert not coming_back.done()
    door.release(other)
    await coming_back
    assert not admitted(door.enter(200))


# Turns that have outgrown the engine together.


async def test_turns_far_beyond_the_cache_give_up_their_shares_at_their_next_tool() -> None:
    """A wrong guess at the start of a server must not last for as long as the turns do."""
    door = Door(slots=4, kv_tokens=1000)
    shares = [door.enter(100) for _ in range(4)]
    for share in shares:
        share.grow(500)
    shares[0].pause()
    assert door.counts == (3, 0), "2,000 tokens are held, for which there is no room"
    shares[1].pause()
    assert door.counts == (3, 0), "1,500 are borne"
    coming_back = await door.come_back(shares[0])
    assert not coming_back.done()
    door.release(shares[2])
    assert not coming_back.done()
    door.release(shares[3])
    await coming_back
    assert admitted(*shares[:2])


def test_a_turn_that_is_alone_keeps_its_share_however_large_it_is() -> None:
    door = Door(kv_tokens=1000)
    share = door.enter(5000)
    share.pause()
    assert admitted(share)


# The end.


@pytest.mark.parametrize("times", [1, 2])
async def test_release_from_every_state(times: int) -> None:
    door = Door(slots=1)
    parked = door.enter()
    await door.park(parked)
    returning = door.enter()
    await door.park(returning)
    running = door.enter()
    paused = running
    paused.pause()
    coming_back = asyncio.create_task(returning.resume())
    await settle()
    waiting = door.enter(tenant="bob")
    assert door.counts == (1, 2)

    for _ in range(times):
        door.release(waiting)
        assert door.counts == (1, 1)
    for _ in range(times):
        door.release(parked)
        assert door.counts == (1, 1)
    for _ in range(times):
        door.release(returning)
        assert door.counts == (1, 0)
    for _ in range(times):
        door.release(paused)
        assert door.counts == (0, 0)
    assert door.clock.pending == 0
    assert admitted(door.enter(1000))
    coming_back.cancel()
    await asyncio.wait([coming_back])


async def test_a_turn_cancelled_while_it_waits_leaves_nothing() -> None:
    door = Door(slots=1)
    running = door.enter()

    async def turn() -> None:
        with door.enter(tenant="bob") as share:
            while await share.queue_position() is not None:
                pass

    waiting = asyncio.create_task(turn())
    await settle()
    assert door.counts == (1, 1)
    waiting.cancel()
    await asyncio.wait([waiting])
    assert door.counts == (1, 0)
    door.release(running)
    assert door.counts == (0, 0)


async def test_a_turn_cancelled_as_it_is_admitted_leaves_nothing() -> None:
    door = Door(slots=1)
    running = door.enter()

    async def turn() -> None:
        with door.enter() as share:
            while await share.queue_position() is not None:
                pass

    waiting = asyncio.create_task(turn())
    await settle()
    door.release(running)
    assert door.counts == (1, 0)
    waiting.cancel()
    await asyncio.wait([waiting])
    assert door.counts == (0, 0)


async def test_a_turn_cancelled_while_it_returns_leaves_nothing() -> None:
    door = Door(slots=1)

    async def turn(share: Share) -> None:
        with share:
            await share.resume()

    slow = door.enter()
    await door.park(slow)
    running = door.enter()
    coming_back = asyncio.create_task(turn(slow))
    await settle()
    assert door.counts == (1, 1)
    coming_back.cancel()
    await asyncio.wait([coming_back])
    assert door.counts == (1, 0)
    door.release(running)


def test_a_turn_that_leaves_the_head_of_the_queue_admits_the_next_one() -> None:
    door = Door(slots=3, kv_tokens=1000)
    door.enter(500)
    large, small = door.enter(5000, tenant="bob"), door.enter(10, tenant="cid")
    assert not admitted(small)
    door.release(large)
    assert admitted(small)
