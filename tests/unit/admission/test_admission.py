"""Which turns are admitted, in which order, and which queue positions they are told."""

from __future__ import annotations

import asyncio

import pytest

from precall_service.domain.errors import Code, Reason, ServiceError
from tests.support.clock import settle
from tests.support.door import Door, admitted, told


def refused(door: Door, tenant: str = "ann") -> ServiceError:
    before = door.counts
    with pytest.raises(ServiceError) as caught:
        door.enter(tenant=tenant)
    assert caught.value.reason is Reason.OVERLOADED
    assert caught.value.code is Code.RESOURCE_EXHAUSTED
    assert caught.value.retry_after_s == 3.0
    assert door.counts == before
    return caught.value


# Capacity.


async def test_a_turn_is_admitted_at_once_while_there_is_room() -> None:
    door = Door()
    share = door.enter()
    assert admitted(share)
    assert await share.queue_position() is None


def test_no_more_turns_than_slots() -> None:
    door = Door(slots=2)
    first, second, third = (door.enter() for _ in range(3))
    assert admitted(first, second)
    assert not admitted(third)
    door.release(second)
    assert admitted(third)


def test_no_more_tokens_than_the_cache_holds() -> None:
    door = Door(slots=10, kv_tokens=1000)
    first, second, third = door.enter(600), door.enter(400), door.enter(1)
    assert admitted(first, second)
    assert not admitted(third)
    door.release(second)
    assert admitted(third)


def test_an_idle_engine_takes_any_turn() -> None:
    door = Door(kv_tokens=1000)
    large = door.enter(5000)
    assert admitted(large)
    small = door.enter(1)
    assert not admitted(small)
    door.release(large)
    assert admitted(small)


def test_a_large_turn_waits_until_the_engine_is_idle() -> None:
    door = Door(slots=3, kv_tokens=1000)
    first, second = door.enter(10), door.enter(10)
    large, small = door.enter(5000), door.enter(10)
    door.release(first)
    assert not admitted(large)
    assert not admitted(small), "the head is never skipped"
    door.release(second)
    assert admitted(large)
    assert not admitted(small)


def test_a_turn_that_outgrew_its_share_keeps_others_out() -> None:
    door = Door(slots=10, kv_tokens=1000)
    share = door.enter(100)
    share.grow(950)
    assert admitted(share)
    other = door.enter(100)
    assert not admitted(other)
    door.release(share)
    assert admitted(other)


def test_a_share_never_shrinks_by_growing() -> None:
    door = Door(slots=10, kv_tokens=1000)
    share = door.enter(900)
    share.grow(10)
    assert not admitted(door.enter(200))


def test_several_turns_may_outgrow_the_cache_together() -> None:
    door = Door(slots=10, kv_tokens=1000)
    shares = [door.enter(400) for _ in range(2)]
    for share in shares:
        share.grow(900)
    assert admitted(*shares)
    waiting = door.enter(1)
    door.release(shares[0])
    assert admitted(waiting)
    door.release(shares[1], waiting)
    assert admitted(*(door.enter(500) for _ in range(2)))


def test_turns_wait_while_there_is_no_engine() -> None:
    door = Door(slots=0)
    share = door.enter()
    assert not admitted(share)
    door.resize(slots=1)
    assert admitted(share)


def test_admitted_turns_keep_their_shares_if_the_engine_shrinks() -> None:
    door = Door(slots=3)
    shares = [door.enter() for _ in range(3)]
    door.resize(slots=1)
    assert admitted(*shares)
    waiting = door.enter()
    door.release(*shares[:2])
    assert not admitted(waiting)
    door.release(shares[2])
    assert admitted(waiting)


def test_a_larger_engine_admits_more_turns() -> None:
    door = Door(slots=1)
    first, second, third = (door.enter() for _ in range(3))
    door.resize(slots=2)
    assert admitted(first, second)
    assert not admitted(third)


# The order.


def test_turns_of_one_tenant_are_admitted_in_order() -> None:
    door = Door(slots=1)
    running, *rest = (door.enter() for _ in range(4))
    for share in rest:
        assert not admitted(share)
        door.release(running)
        assert admitted(share)
        running = share


def test_tenants_take_turns() -> None:
    door = Door(slots=1)
    running = door.enter(tenant="zoe")
    names = {
        door.enter(tenant=tenant): f"{tenant}{number}"
        for tenant, count in (("ann", 3), ("bob", 1), ("cid", 2))
        for number in range(count)
    }
    order: list[str] = []
    for _ in range(len(names)):
        door.release(running)
        [running] = [share for share in names if admitted(share)]
        order.append(names[running])
    assert order == ["ann0", "bob0", "cid0", "ann1", "cid1", "ann2"]


def test_the_next_turn_of_a_tenant_queues_behind_waiting_tenants() -> None:
    door = Door(slots=1)
    running = door.enter(tenant="ann")
    bob, cid = door.enter(tenant="bob"), door.enter(tenant="cid")
    again = door.enter(tenant="ann")
    for expected in (bob, cid, again):
        door.release(running)
        assert admitted(expected)
        running = expected


# Queue positions.


async def test_each_queue_position_is_told_once() -> None:
    door = Door(slots=1)
    running = door.enter()
    first, second, third = (door.enter() for _ in range(3))
    assert [await told(share) for share in (first, second, third)] == [[0], [1], [2]]
    assert [await told(share) for share in (first, second, third)] == [[], [], []]
    door.release(running)
    door.tell()
    assert [await told(share) for share in (second, third)] == [[0], [1]]
    assert await first.queue_position() is None


async def test_a_queue_position_that_changed_back_unread_is_not_told_again() -> None:
    door = Door(slots=1)
    door.enter()
    share = door.enter(tenant="bob")
    assert await told(share) == [0]
    await told(share)
    ahead = door.enter(tenant="ann")
    assert await told(ahead) == [1]
    door.release(ahead)
    assert await told(share) == []


async def test_queue_positions_alternate_between_tenants() -> None:
    door = Door(slots=1)
    door.enter(tenant="zoe")
    shares = [door.enter(tenant=tenant) for tenant in ("ann", "ann", "ann", "bob")]
    assert [await told(share) for share in shares] == [[0], [1], [2], [3]]
    door.tell()
    assert [await told(share) for share in shares] == [[], [2], [3], [1]]


async def test_a_returning_turn_moves_its_tenants_new_turns_back() -> None:
    door = Door(slots=1)
    slow = door.enter()
    await door.park(slow)
    door.enter()
    waiting = door.enter()
    assert await told(waiting) == [0]
    coming_back = await door.come_back(slow)
    door.tell()
    assert await told(waiting) == [1]
    coming_back.cancel()
    await asyncio.wait([coming_back])


async def test_a_turn_that_leaves_the_queue_moves_the_others_up() -> None:
    door = Door(slots=1)
    door.enter()
    first, second = door.enter(), door.enter(tenant="bob")
    assert await told(second) == [1]
    with first:
        pass
    door.tell()
    assert await told(second) == [0]


async def test_admission_wakes_a_turn_that_waits_for_its_queue_position() -> None:
    door = Door(slots=1)
    running, waiting = door.enter(), door.enter()
    await told(waiting)
    reading = asyncio.ensure_future(waiting.queue_position())
    await settle()
    assert not reading.done()
    door.release(running)
    assert await reading is None


# Bounds.


def test_a_tenant_may_fill_its_own_queue_only() -> None:
    door = Door(slots=1, waiting_per_tenant_max=2)
    door.enter()
    door.enter()
    door.enter()
    error = refused(door)
    assert "'ann'" in error.message
    assert "2" in error.message
    door.enter(tenant="bob")


def test_the_queue_is_bounded_over_all_tenants() -> None:
    door = Door(slots=1, waiting_max=3)
    door.enter()
    for tenant in ("ann", "bob", "cid"):
        door.enter(tenant=tenant)
    error = refused(door, "dan")
    assert "the queue of this server is full" in error.message
    assert error.metadata == {"waiting": "0"}, "it tells nothing about other tenants"


async def test_returning_turns_are_never_refused_and_count() -> None:
    door = Door(slots=1, waiting_max=1)
    slow = door.enter()
    await door.park(slow)
    door.enter()
    door.enter()
    coming_back = asyncio.create_task(slow.resume())
    await settle()
    assert door.counts == (1, 2)
    refused(door, "bob")
    coming_back.cancel()
    await asyncio.wait([coming_back])
