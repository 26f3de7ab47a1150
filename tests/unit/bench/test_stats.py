"""Summaries, ratios and slopes of samples."""

from __future__ import annotations

import pytest

from bench.stats import Summary, number, paired_ratios, percentile, slope, summary


def test_a_summary_has_the_count_the_median_and_the_spread() -> None:
    assert summary([3.0, 1.0, 2.0, 10.0]) == Summary(n=4, median=2.5, least=1.0, greatest=10.0)


def test_a_summary_reads_as_one_line() -> None:
    assert str(summary([1.0, 0.5, 1234.5])) == "1.00 (0.500 to 1,234, n=3)"


@pytest.mark.parametrize(
    ("fraction", "expected"), [(0.0, 1.0), (0.5, 2.0), (0.51, 3.0), (0.95, 4.0), (1.0, 4.0)]
)
def test_a_percentile_is_one_of_the_samples(fraction: float, expected: float) -> None:
    assert percentile([4.0, 1.0, 3.0, 2.0], fraction) == expected


def test_ratios_are_taken_round_by_round() -> None:
    assert paired_ratios([1.0, 20.0], [2.0, 10.0]) == [0.5, 2.0]


def test_there_are_no_ratios_if_an_arm_misses_a_round() -> None:
    with pytest.raises(ValueError, match="shorter"):
        paired_ratios([1.0, 2.0], [1.0])


def test_the_slope_is_the_cost_of_one_more() -> None:
    assert slope([(0.0, 100.0), (10.0, 150.0), (20.0, 200.0)]) == pytest.approx(5.0)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (0.01234, "0.0123"), (1.0, "1.00"), (99.9, "99.9"), (27_000.4, "27,000")],
)
def test_numbers_have_three_significant_digits(value: float, text: str) -> None:
    assert number(value) == text
