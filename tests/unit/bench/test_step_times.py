"""The times of a step are told apart: until the model calls, and while it writes calls."""

from __future__ import annotations

import pytest

from bench.speculating import Pair
from bench.step_times import StepTimes, verification_s
from bench.tool_calls import Call
from bench.tool_turns import TurnTimes
from precall_service.agent.account import Piece, Sampled
from precall_service.domain.events import ReasoningDelta, ToolCallReady, ToolCallStarted

STARTED, READY = ToolCallStarted("1", "weather"), ToolCallReady("1", "weather", "{}")


def step(*samples: tuple[float, int, tuple[Piece, ...]], ended_at: float) -> StepTimes:
    """A step that began at 0 and got so many tokens, with pieces, at these times."""
    found = StepTimes(began_at=0.0, ended_at=ended_at)
    for at, tokens, pieces in samples:
        found.sample(at, Sampled(tuple(range(tokens)), pieces, at))
    return found


def calling(*, each_s: float, verified: bool) -> StepTimes:
    """A step of two tokens of reasoning and a call of twenty."""
    before = [(each_s, 1, ()), (2 * each_s, 1, (ReasoningDelta("so"),))]
    if verified:
        drafted: tuple[Piece, ...] = (STARTED, READY)
        return step(*before, (4 * each_s, 20, drafted), ended_at=4 * each_s)
    call = [(each_s * (3 + index), 1, (READY,) if index == 19 else ()) for index in range(20)]
    return step(*before, *call, ended_at=22 * each_s)


def test_a_call_begins_after_the_last_reasoning() -> None:
    found = calling(each_s=0.1, verified=False)
    assert (found.thought_tokens, found.call_tokens, found.calls) == (2, 20, 1)
    assert found.thought_s == pytest.approx(0.2)
    assert found.calls_s == pytest.approx(2.0)
    assert found.verified_s == []


def test_many_tokens_at_once_were_verified() -> None:
    found = calling(each_s=0.1, verified=True)
    assert (found.thought_tokens, found.call_tokens, found.calls) == (2, 20, 1)
    assert verification_s([found, found]) == pytest.approx(0.2)
    assert verification_s([]) == 0.0


def test_a_step_without_calls_has_no_part_of_them() -> None:
    found = step((0.1, 1, ()), (0.2, 1, (ReasoningDelta("so"),)), (0.3, 1, ()), ended_at=0.4)
    assert (found.thought_s, found.calls_s, found.call_tokens) == (0.4, 0.0, 0)


@pytest.mark.parametrize(("hits", "allowed"), [(1, 2.2), (0, 0.0)])
def test_what_the_formula_allows_with_drafts(hits: int, allowed: float) -> None:
    """The turn waits 0.5 s less, and its calls are written 1.8 s sooner.

    The formula allows no more than the lead, which is the whole message.
    """
    off_step = calling(each_s=0.1, verified=False)
    on_step = calling(each_s=0.1, verified=True)
    calls = [[Call("weather", "{}")]]
    off = TurnTimes(written_at=off_step.ended_at, next_at=off_step.ended_at + 0.5)
    on = TurnTimes(written_at=on_step.ended_at, next_at=on_step.ended_at, calls_by_step=calls)
    on.started_at = {"1": 0.0} if hits else {}
    pair = Pair(off=off, on=on, off_step=off_step, on_step=on_step)
    assert pair.branched_s == pytest.approx(0.0)
    assert pair.drafted_s == pytest.approx(1.8)
    assert pair.hidden_s == pytest.approx(0.5)
    assert pair.allowed_with_drafts_s(0.2) == pytest.approx(allowed)
