"""What early runs hid and saved: the time of a step, not the sum of its calls."""

from __future__ import annotations

import pytest

from precall_service.agent.overlap import Overlap
from precall_service.domain.events import ToolCallCompleted, ToolCallOutcome


def answered(prediction_id: str = "", saved_s: float | None = None) -> ToolCallCompleted:
    return ToolCallCompleted(
        "call",
        ToolCallOutcome.RESULT,
        "1",
        None,
        wait_time_s=0.0,
        prediction_id=prediction_id,
        time_saved_s=saved_s,
    )


def early(overlap: Overlap, name: str, start: float, end: float) -> None:
    overlap.launch(start, name)
    overlap.end(end, name)


def totals(overlap: Overlap) -> tuple[float, float]:
    overlap.close_step()
    return overlap.hidden_s, overlap.saved_s


def test_a_run_that_ended_before_its_call_saved_all_its_time() -> None:
    overlap = Overlap()
    early(overlap, "a", 1.0, 3.0)
    overlap.answer(5.0, answered("a", 2.0))
    assert totals(overlap) == (2.0, 2.0)


def test_a_run_that_goes_on_hides_the_time_until_its_call() -> None:
    overlap = Overlap()
    overlap.launch(1.0, "a")
    overlap.end(4.0, "a")  # it is confirmed here
    overlap.end(6.0, "a")  # and its handler ends here
    overlap.answer(6.0, answered("a", 3.0))
    assert totals(overlap) == (3.0, 3.0)


def test_the_time_that_two_runs_share_counts_once() -> None:
    overlap = Overlap()
    early(overlap, "a", 1.0, 4.0)
    early(overlap, "b", 2.0, 3.0)
    early(overlap, "c", 3.5, 6.0)
    early(overlap, "d", 7.0, 8.0)
    for name, saved_s in (("a", 3.0), ("b", 1.0), ("c", 2.5), ("d", 1.0)):
        overlap.answer(9.0, answered(name, saved_s))
    hidden_s, saved_s = totals(overlap)
    assert hidden_s == 6.0
    assert saved_s == 3.0, "without speculation, they would have run at the same time as well"


@pytest.mark.parametrize(("slow_s", "saved_s"), [(1.0, 2.0), (2.0, 1.0), (3.0, 0.0), (9.0, 0.0)])
def test_a_call_that_was_not_predicted_takes_the_saving_of_its_step(
    slow_s: float, saved_s: float
) -> None:
    overlap = Overlap()
    early(overlap, "a", 1.0, 4.0)
    overlap.answer(5.0, answered("a", 3.0))
    overlap.answer(5.0 + slow_s, answered())
    assert totals(overlap) == (3.0, saved_s)


def test_runs_that_answered_nothing_hide_nothing() -> None:
    overlap = Overlap()
    early(overlap, "a", 1.0, 4.0)
    overlap.answer(5.0, answered())
    assert totals(overlap) == (0.0, 0.0)


def test_a_result_from_the_cache_hides_nothing() -> None:
    overlap = Overlap()
    overlap.end(4.0, "a")  # READY, but no handler was launched
    overlap.answer(5.0, answered("a"))
    assert totals(overlap) == (0.0, 0.0)


def test_steps_add_up() -> None:
    overlap = Overlap()
    early(overlap, "a", 1.0, 2.0)
    early(overlap, "ahead", 1.0, 8.0)
    overlap.answer(3.0, answered("a", 1.0))
    assert totals(overlap) == (1.0, 1.0)
    overlap.answer(9.0, answered("ahead", 7.0))
    assert totals(overlap) == (8.0, 8.0)
    assert totals(overlap) == (8.0, 8.0)
