"""The next share goes to the tenant that holds least of the engine."""

from __future__ import annotations

import asyncio

import pytest

from precall_service.admission import Share
from precall_service.domain.errors import Reason, ServiceError
from tests.support.clock import settle
from tests.support.door import Door, admitted, told

# Between tenants.


async def test_returning_turns_of_one_tenant_do_not_go_before_the_turn_of_another() -> None:
    """80 conversations with slow tools on 4 slots, of which all were ahead of a new turn."""
    door = Door(slots=4, kv_tokens=1 << 20)
    shares: list[Share] = []
    for _ in range(80):
        shares.append(door.enter(tenant="busy"))
        await door.park(shares[-1])
    returning = [await door.come_back(share) for share in shares]
    assert door.counts == (4, 76)
    victim = door.enter(tenant="victim")
    assert await told(victim) == [76], "no more than so many turns start before it"
    door.tell()
    assert await told(victim) == [0]
    door.release(shares[0])
    assert admitted(victim), "it needs one turn to end, not 76"
    for each in returning:
        each.cancel()
    await asyncio.wait(returning)


async def test_returning_turns_go_before_the_new_ones_of_their_own_tenant() -> None:
    door = Door(slots=1)
    slow = door.enter()
    await door.park(slow)
    running, other, new = door.enter(), door.enter(tenant="bob"), door.enter()
    coming_back = await door.come_back(slow)
    door.release(running)
    assert admitted(other), "it came first"
    door.release(other)
    await coming_back
    assert admitted(slow)
    assert not admitted(new)


def test_the_tenant_with_fewer_slots_goes_first() -> None:
    """Else a tenant whose turns last long would get nearly all of the time."""
    door = Door(slots=4)
    long = [door.enter(1, tenant="long") for _ in range(8)]
    first, second, third = (door.enter(1, tenant="short") for _ in range(3))
    door.release(long[0])
    assert admitted(first)
    door.release(first)
    assert admitted(second), "the other tenant has three slots"
    door.release(long[1])
    assert admitted(third), "it has two of three"
    door.release(long[2])
    assert admitted(long[4])


def test_the_tenant_with_less_of_the_cache_goes_first() -> None:
    """Slots are many on a GPU, and what turns compete for is the KV cache."""
    door = Door(slots=100, kv_tokens=1000)
    large = door.enter(600, tenant="large")
    small = [door.enter(100, tenant="small") for _ in range(4)]
    assert admitted(large, *small)
    next_large, next_small = door.enter(100, tenant="large"), door.enter(100, tenant="small")
    door.release(small[0])
    assert admitted(next_small)
    assert not admitted(next_large)


def test_a_tenant_alone_has_all_slots() -> None:
    door = Door(slots=4)
    assert admitted(*(door.enter() for _ in range(4)))


def test_what_a_tenant_held_long_ago_does_not_count() -> None:
    door = Door(slots=2)
    for _ in range(50):
        door.release(door.enter(tenant="ann"))
    running = [door.enter(tenant="zoe") for _ in range(2)]
    ann, bob = door.enter(tenant="ann"), door.enter(tenant="bob")
    door.release(*running)
    assert admitted(ann, bob)


# A limit for each tenant.


def test_no_more_turns_of_a_tenant_run_than_the_operator_allows() -> None:
    door = Door(slots=4, running_per_tenant_max=2)
    ann = [door.enter(tenant="ann") for _ in range(4)]
    assert door.counts == (2, 2)
    bob = [door.enter(tenant="bob") for _ in range(2)]
    assert admitted(*ann[:2], *bob)
    door.release(bob[0])
    assert door.counts == (3, 2)
    door.release(ann[0])
    assert admitted(*ann[1:3])
    assert not admitted(ann[3])


async def test_a_returning_turn_counts_for_the_limit_of_its_tenant() -> None:
    door = Door(slots=4, running_per_tenant_max=1)
    slow = door.enter()
    await door.park(slow)
    running = door.enter()
    assert admitted(running)
    coming_back = await door.come_back(slow)
    assert not coming_back.done()
    door.release(running)
    await coming_back
    assert admitted(slow)


async def test_turns_over_the_limit_of_their_tenant_are_told_that_they_are_last() -> None:
    door = Door(slots=2, running_per_tenant_max=1)
    door.enter(tenant="ann")
    ann = door.enter(tenant="ann")
    door.enter(tenant="bob")
    cid = door.enter(tenant="cid")
    door.tell()
    assert [await told(cid), await told(ann)] == [[0], [1]]


# A queue that fills up.


def test_a_tenant_may_not_have_more_turns_waiting_than_there_are_free_places() -> None:
    door = Door(slots=0, waiting_max=10)
    for _ in range(5):
        door.enter(tenant="ann")
    with pytest.raises(ServiceError, match="nearly full, and tenant 'ann' has 5 turns") as caught:
        door.enter(tenant="ann")
    assert caught.value.reason is Reason.OVERLOADED
    for _ in range(3):
        door.enter(tenant="bob")
    with pytest.raises(ServiceError, match="nearly full, and tenant 'bob' has 3 turns"):
        door.enter(tenant="bob")
    door.enter(tenant="cid")
    assert door.counts == (0, 9), "the last places are for those who have least"


# What a change of the queue costs.


async def test_few_turns_are_woken_at_once_and_the_last_word_is_right() -> None:
    """1,015 waiting turns, of which each was woken by each turn that ended."""
    door = Door(slots=1, kv_tokens=1 << 30, waiting_max=5000, waiting_per_tenant_max=2000)
    running = door.enter()
    shares = [door.enter() for _ in range(1015)]
    heard: dict[int, list[int]] = {number: [] for number in range(len(shares))}

    async def listen(number: int) -> None:
        while (position := await shares[number].queue_position()) is not None:
            heard[number].append(position)

    listening = [asyncio.create_task(listen(number)) for number in heard]
    await settle()
    assert all(len(positions) == 1 for positions in heard.values()), "the first word comes at once"

    def words() -> int:
        return sum(map(len, heard.values()))

    door.tell()  # ends the pass
    before = words()
    ended = [running, *shares[:20]]
    for share in ended:
        door.release(share)
        await settle()
        assert words() - before <= 32
    most = 0
    for _ in range(300):
        before = words()
        door.clock.advance(0.01)
        await settle()
        most = max(most, words() - before)
    assert 0 < most <= 32
    for number, positions in list(heard.items())[21:]:
        assert positions[-1] == number - 21
        assert positions == sorted(positions, reverse=True)
    for each in listening:
        each.cancel()
    await asyncio.wait(listening)
