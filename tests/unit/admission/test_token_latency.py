"""Admission with a target for the time of a token."""

from __future__ import annotations

import asyncio

from precall_service.admission.latency import SETTLE_S, WINDOW_S, WINDOW_TOKENS
from tests.support.clock import settle
from tests.support.door import Door, admitted, told

TARGET_S = 0.05


def door(slots: int = 10) -> Door:
    return Door(slots=slots, token_latency_s=TARGET_S)


def sample(door: Door, token_s: float, *, speculating: bool = False) -> None:
    """Lets the admitted turns generate for a window, in which a token takes this time."""
    door.clock.advance(SETTLE_S + WINDOW_S)
    door.admission.observe_tokens(WINDOW_TOKENS * token_s, WINDOW_TOKENS, speculating=speculating)


def test_without_a_target_the_slots_decide() -> None:
    door = Door(slots=3)
    shares = [door.enter() for _ in range(3)]
    sample(door, 1e3)
    assert admitted(*shares)
    assert door.admission.turns_max == 3
    assert door.admission.speculation_width == 1.0
    assert not door.admission.measures


def test_turns_are_admitted_as_the_time_of_a_token_allows() -> None:
    there = door()
    assert there.admission.measures
    shares = [there.enter() for _ in range(6)]
    assert there.counts == (1, 5)
    sample(there, 0.4 * TARGET_S)
    assert there.counts == (2, 4)
    sample(there, 0.5 * TARGET_S)
    assert there.counts == (4, 2)
    assert admitted(*shares[:4])
    sample(there, 0.95 * TARGET_S)
    assert there.counts == (4, 2)


def test_a_turn_that_was_admitted_keeps_its_share() -> None:
    there = door()
    shares = [there.enter() for _ in range(4)]
    for _ in range(2):
        sample(there, 0.1 * TARGET_S)
    sample(there, 4 * TARGET_S)
    assert there.admission.turns_max == 2
    assert admitted(*shares)
    waiting = there.enter()
    there.release(*shares[:2])
    assert not admitted(waiting)
    there.release(shares[2])
    assert admitted(waiting)


def test_no_more_turns_than_slots_and_cache_however_fast_tokens_come() -> None:
    there = door(slots=2)
    for _ in range(20):
        there.enter(450)
        sample(there, 0.01 * TARGET_S)
    assert there.counts == (2, 18)
    assert there.admission.turns_max == 2
    there.resize(slots=10)
    assert there.counts == (2, 18)


async def test_a_returning_turn_goes_before_new_ones() -> None:
    there = door()
    slow = there.enter()
    await there.park(slow)
    running, new = there.enter(), there.enter()
    coming_back = asyncio.create_task(slow.resume())
    await settle()
    assert not coming_back.done()
    sample(there, 0.1 * TARGET_S)
    await coming_back
    assert admitted(slow, running)
    assert not admitted(new)


async def test_an_engine_that_generates_nothing_takes_one_more_turn() -> None:
    """Without this, it would be idle until a tool answers or the hold time is over."""
    there = door()
    first, second, third = (there.enter() for _ in range(3))
    assert admitted(first)
    first.pause()
    assert admitted(second)
    assert not admitted(third)
    second.pause()
    assert admitted(third)
    await first.resume()
    assert there.counts == (3, 0)


async def test_waiting_turns_are_told_their_positions_when_others_are_admitted() -> None:
    there = door()
    there.enter()
    first, second = there.enter(), there.enter()
    assert [await told(first), await told(second)] == [[0], [1]]
    sample(there, 0.1 * TARGET_S)
    assert await first.queue_position() is None
    assert await told(second) == [0]


def test_speculation_is_narrowed_first() -> None:
    there = door()
    for _ in range(4):
        there.enter()
    for _ in range(2):
        sample(there, 0.1 * TARGET_S)
    widths: list[tuple[float, int]] = []
    for _ in range(3):
        sample(there, 1.2 * TARGET_S, speculating=True)
        widths.append((there.admission.speculation_width, there.admission.turns_max))
    assert widths == [(0.25, 4), (0.0, 4), (0.0, 3)]
