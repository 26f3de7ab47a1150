"""How many turns run, and how wide speculation is, so that tokens come in time."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from precall_service.admission.latency import (
    CALM,
    RETRY_FIRST_S,
    RETRY_MAX_S,
    SETTLE_S,
    WINDOW_S,
    WINDOW_TOKENS,
    LatencyControl,
)
from tests.support.clock import ManualClock
from tests.support.token_times import TARGET_S, Turns


def linear(fixed: float, each: float) -> Callable[[int], float]:
    """An engine whose time of a token is fixed, and more for each turn, in parts of the target."""
    return lambda turns: TARGET_S * (fixed + each * turns)


# How many turns may run.


def test_one_turn_may_run_until_something_was_measured() -> None:
    assert Turns(linear(0.1, 0.11)).control.turns_max == 1


def test_more_turns_run_while_tokens_come_in_time() -> None:
    turns = Turns(linear(0.1, 0.11))
    seen = [turns.measure() for _ in range(5)]
    assert seen == [2, 4, 7, 8, 8]
    assert turns.token_s <= TARGET_S


def test_the_number_grows_no_further_than_the_formula_allows() -> None:
    turns = Turns(linear(0.5, 0.11))
    assert [turns.measure() for _ in range(5)] == [2, 3, 4, 4, 4]


def test_one_turn_more_is_tried_while_a_turn_waits_and_tokens_come_well_in_time() -> None:
    turns = Turns(linear(0.7, 0.06), wanted=1)
    assert turns.measure() == 1, "1.3 turns would fit"
    turns.wanted = 10
    assert [turns.measure() for _ in range(4)] == [2, 3, 4, 4]
    assert CALM * TARGET_S < turns.token_s <= TARGET_S


def test_fewer_turns_run_when_tokens_come_too_late() -> None:
    turns = Turns(linear(0.1, 0.11))
    turns.settle()
    turns.curve = linear(0.2, 0.22)
    seen = [turns.measure() for _ in range(3)]
    assert seen == sorted(seen, reverse=True)
    assert seen[-1] == 3


def test_one_turn_may_always_run() -> None:
    turns = Turns(linear(5.0, 5.0))
    assert {turns.measure() for _ in range(20)} == {1}


def test_turns_that_run_on_do_not_lower_the_number_again() -> None:
    """Nothing is ended, so it takes a while until fewer turns run."""
    turns = Turns(linear(0.1, 0.11))
    turns.settle()
    turns.curve, turns.ends = linear(0.2, 0.22), False
    assert len({turns.measure() for _ in range(20)}) == 1
    turns.ends = True
    turns.settle()
    assert turns.control.turns_max == 3


def test_more_turns_run_again_when_the_engine_is_faster() -> None:
    turns = Turns(linear(0.1, 0.11))
    turns.settle()
    turns.curve = linear(0.2, 0.22)
    turns.settle()
    turns.curve = linear(0.1, 0.11)
    turns.settle()
    assert turns.control.turns_max == 8


def test_what_was_too_slow_is_tried_again_less_and_less_often() -> None:
    turns = Turns(lambda count: TARGET_S * (0.5 if count <= 3 else 2.0))
    turns.settle()
    assert turns.control.turns_max == 3
    tried: list[float] = []
    for _ in range(200):
        before = turns.control.turns_max
        if turns.measure() > max(before, 3):
            tried.append(turns.clock.now())
    waits = [after - before for before, after in pairwise(tried)]
    assert all(wait >= RETRY_FIRST_S for wait in waits)
    assert waits == sorted(waits)
    assert RETRY_MAX_S <= waits[-1] < RETRY_MAX_S + 10


def test_without_demand_no_turn_more_is_tried() -> None:
    turns = Turns(linear(0.1, 0.11), wanted=2)
    for _ in range(10):
        turns.measure()
    assert turns.control.turns_max == 4, "twice as many as were measured"


# What is measured.


def control() -> tuple[LatencyControl, ManualClock]:
    clock = ManualClock()
    return LatencyControl(clock, TARGET_S), clock


def test_a_window_needs_time_and_tokens() -> None:
    latency, clock = control()
    assert not latency.observe(0.1, WINDOW_TOKENS, turns=1, speculating=False)
    clock.advance(WINDOW_S)
    assert latency.observe(0.1, 1, turns=1, speculating=False)
    latency, clock = control()
    clock.advance(100 * WINDOW_S)
    assert not latency.observe(0.1, WINDOW_TOKENS - 1, turns=1, speculating=False)
    assert latency.observe(0.1, 1, turns=1, speculating=False)


def test_tokens_right_after_a_change_do_not_count() -> None:
    latency, clock = control()
    clock.advance(WINDOW_S)
    assert latency.observe(0.0, WINDOW_TOKENS, turns=1, speculating=False)
    latency.decide(waiting=True)
    assert latency.turns_max == 2
    clock.advance(SETTLE_S / 2)
    assert not latency.observe(1e6, WINDOW_TOKENS, turns=2, speculating=False)
    clock.advance(SETTLE_S / 2 + WINDOW_S)
    assert latency.observe(0.0, WINDOW_TOKENS, turns=2, speculating=False)
    latency.decide(waiting=True)
    assert latency.turns_max == 4


# How wide speculation is.


def test_speculation_gives_way_before_turns_do() -> None:
    turns = Turns(linear(0.1, 0.11))
    turns.settle()
    turns.beside = 2.0
    assert [(turns.measure(), turns.control.width) for _ in range(3)] == [
        (8, 0.25),
        (8, 0.0),
        (8, 0.0),
    ]


def test_turns_give_way_where_speculation_cannot() -> None:
    turns = Turns(linear(0.1, 0.11))
    turns.settle()
    turns.curve, turns.beside = linear(0.2, 0.22), 1.1
    turns.settle()
    assert turns.control.turns_max == 3


def test_speculation_that_tokens_are_in_time_for_stays_wide() -> None:
    turns = Turns(linear(0.1, 0.11))
    turns.beside = 1.05
    turns.settle()
    assert turns.control.width == 1.0


def test_speculation_becomes_wider_again() -> None:
    turns = Turns(linear(0.1, 0.11), wanted=4)
    turns.settle()
    turns.beside = 3.0
    turns.settle(windows=4)
    assert turns.control.width < 1.0
    turns.beside = 1.1
    turns.settle()
    assert turns.control.width == 1.0


def test_a_width_that_was_too_slow_is_tried_again_less_and_less_often() -> None:
    turns = Turns(linear(0.1, 0.11), wanted=4)
    turns.settle()
    turns.beside = 3.0
    changes: list[float] = []
    for _ in range(300):
        before = turns.control.width
        turns.measure()
        if turns.control.width > before:
            changes.append(turns.clock.now())
    waits = [after - before for before, after in pairwise(changes)]
    assert waits == sorted(waits)
    assert RETRY_MAX_S <= waits[-1] < RETRY_MAX_S + 10
