"""The formulas agree with each other, and with what the paper derives from them."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from bench.theory import Timing, best_tool_s

TIMINGS = [
    Timing(generation_s=generation, prediction_s=prediction, tool_s=tool)
    for generation, prediction, tool in itertools.product(
        (0.5, 2.25), (0.0, 0.1, 0.4, 3.0), (0.05, 0.5, 2.25, 30.0)
    )
]
DRAFTED = [
    replace(timing, drafted_s=timing.generation_s * part)
    for timing in TIMINGS
    for part in (0.1, 0.5)
]
ACCEPTANCES = (0.0, 0.3, 0.8, 1.0)


@pytest.mark.parametrize("timing", TIMINGS + DRAFTED, ids=str)
def test_what_is_saved_is_the_difference_of_the_times(timing: Timing) -> None:
    for acceptance in ACCEPTANCES:
        saved_s = timing.standard_s - timing.speculative_s(acceptance)
        assert timing.saved_s(acceptance) == pytest.approx(saved_s)
        assert timing.saved_fraction(acceptance) == pytest.approx(saved_s / timing.standard_s)
        assert timing.speedup(acceptance) == pytest.approx(1 / (1 - saved_s / timing.standard_s))


@pytest.mark.parametrize("timing", TIMINGS + DRAFTED, ids=str)
def test_it_saves_only_with_acceptance_and_a_lead_and_more_with_more(timing: Timing) -> None:
    saved = [timing.saved_s(acceptance) for acceptance in ACCEPTANCES]
    if timing.lead_s:
        assert saved == sorted(set(saved))
        assert saved[0] == 0
    else:
        assert set(saved) == {0.0}


@pytest.mark.parametrize("timing", DRAFTED, ids=str)
def test_drafts_never_save_less(timing: Timing) -> None:
    without = replace(timing, drafted_s=0.0)
    both = timing.saved_s(1.0)
    assert without.saved_s(1.0) <= both <= without.saved_s(1.0) + timing.drafted_s + 1e-9


def test_drafts_save_what_the_tool_leaves() -> None:
    """If the tool takes longer than the message, the turn waits for it all the same."""
    quick = Timing(generation_s=2.0, prediction_s=0.2, tool_s=0.5, drafted_s=0.6)
    slow = replace(quick, tool_s=5.0)
    assert quick.saved_s(1.0) == pytest.approx(1.1)
    assert slow.saved_s(1.0) == pytest.approx(1.8)


@pytest.mark.parametrize("timing", TIMINGS, ids=str)
def test_it_is_never_twice_as_fast(timing: Timing) -> None:
    assert timing.speedup(1.0) <= max(1.0, timing.speedup_bound) + 1e-9
    assert timing.speedup_bound <= 2.0


@pytest.mark.parametrize(("generation_s", "prediction_s"), [(2.25, 0.0), (2.25, 0.45), (1.0, 0.3)])
def test_the_saved_fraction_peaks_where_the_tool_takes_as_long_as_the_lead(
    generation_s: float, prediction_s: float
) -> None:
    def saved(tool_s: float) -> float:
        timing = Timing(generation_s=generation_s, prediction_s=prediction_s, tool_s=tool_s)
        return timing.saved_fraction(0.8)

    best_s = best_tool_s(generation_s, prediction_s)
    times = [best_s * factor for factor in (0.1, 0.3, 0.9, 1.0, 1.1, 3.0, 10.0)]
    assert max(times, key=saved) == best_s


@pytest.mark.parametrize(
    ("tool_s", "fraction"), [(0.5, 0.145), (1.0, 0.246), (2.25, 0.32), (3.0, 0.27), (10.0, 0.12)]
)
def test_known_values(tool_s: float, fraction: float) -> None:
    timing = Timing(generation_s=2.25, prediction_s=0.45, tool_s=tool_s)
    assert timing.saved_fraction(0.8) == pytest.approx(fraction, abs=0.006)
