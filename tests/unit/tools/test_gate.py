"""Slots are neither lost nor handed out twice, and committed runs come first."""

from __future__ import annotations

import pytest

from precall_service.domain.errors import Reason, ServiceError
from precall_service.tools.gate import (
    COMMITTED_WAITING_MAX,
    SPECULATIVE_WAITING_MAX,
    Gate,
    Ticket,
)


def granted(*tickets: Ticket) -> list[bool]:
    return [ticket.granted.is_set() for ticket in tickets]


def ignored() -> None:
    """Evicts nothing: the run stays until the test lets it leave."""


def test_slot_that_came_with_the_cancel_goes_to_the_next() -> None:
    gate = Gate()
    holder, first, second = (gate.enter(1) for _ in range(3))
    gate.leave(holder)
    assert granted(first, second) == [True, False]
    gate.leave(first)
    gate.leave(first)
    assert granted(second) == [True]
    gate.leave(second)
    assert gate.idle


def test_cancelled_one_leaves_the_queue() -> None:
    gate = Gate()
    holder, first, second = (gate.enter(1) for _ in range(3))
    gate.leave(first)
    gate.leave(holder)
    assert granted(first, second) == [False, True]
    assert not gate.idle
    gate.leave(second)
    assert gate.idle


@pytest.mark.parametrize(("slots", "running"), [(1, 2), (3, 3), (4, 4)])
def test_slots_follow_the_latest_declaration(slots: int, running: int) -> None:
    gate = Gate()
    waiting = [gate.enter(2) for _ in range(6)]
    late = gate.enter(slots)
    assert sum(granted(*waiting)) == running
    assert granted(late) == [False]


def test_committed_runs_come_before_speculative_ones() -> None:
    gate = Gate()
    holder = gate.enter(1)
    guess, other_guess = (gate.enter(1, evict=ignored) for _ in range(2))
    call, other_call = gate.enter(1), gate.enter(1)
    order: list[Ticket] = []
    for _ in range(4):
        gate.leave(holder)
        [holder] = [
            each
            for each in (guess, other_guess, call, other_call)
            if each.granted.is_set() and each not in order
        ]
        order.append(holder)
    assert order == [call, other_call, guess, other_guess]


def test_commit_moves_a_run_behind_the_committed_ones() -> None:
    gate = Gate()
    holder = gate.enter(1)
    guess, other_guess = (gate.enter(1, evict=ignored) for _ in range(2))
    call = gate.enter(1)
    gate.commit(other_guess)
    gate.commit(other_guess)
    gate.leave(holder)
    assert granted(call) == [True]
    gate.leave(call)
    assert granted(guess, other_guess) == [False, True]
    gate.commit(other_guess)
    gate.leave(other_guess)
    assert granted(guess) == [True]


def test_a_full_queue_refuses_its_own_kind() -> None:
    gate = Gate()
    gate.enter(1)
    guesses = [gate.enter(1, evict=ignored) for _ in range(SPECULATIVE_WAITING_MAX)]
    with pytest.raises(ServiceError) as caught:
        gate.enter(1, evict=ignored)
    assert caught.value.reason is Reason.OVERLOADED
    assert caught.value.metadata == {"limit": str(SPECULATIVE_WAITING_MAX)}
    calls = [gate.enter(1) for _ in range(COMMITTED_WAITING_MAX)]
    with pytest.raises(ServiceError) as caught:
        gate.enter(1)
    assert caught.value.metadata == {"limit": str(COMMITTED_WAITING_MAX)}
    assert not any(granted(*guesses, *calls))


def test_commits_cannot_make_the_committed_queue_grow_without_end() -> None:
    gate = Gate()
    gate.enter(1)
    for _ in range(COMMITTED_WAITING_MAX - 1):
        gate.commit(gate.enter(1, evict=ignored))
    for guess in [gate.enter(1, evict=ignored) for _ in range(SPECULATIVE_WAITING_MAX)]:
        gate.commit(guess)
    with pytest.raises(ServiceError):
        gate.enter(1, evict=ignored)


def test_a_committed_run_evicts_one_speculative_holder_and_once() -> None:
    gate = Gate()
    evicted: list[int] = []
    holders = [gate.enter(2, evict=lambda at=at: evicted.append(at)) for at in range(2)]
    call = gate.enter(2)
    assert evicted == [1]
    gate.commit(holders[0])
    other = gate.enter(2)
    assert evicted == [1], "a committed run keeps its slot"
    gate.leave(holders[1])
    assert granted(call, other) == [True, False]
