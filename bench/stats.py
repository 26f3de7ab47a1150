"""Summaries of samples: their number, their median, and their spread from least to greatest."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The reported summary of the samples of one quantity."""

    n: int
    median: float
    least: float
    greatest: float

    def __str__(self) -> str:
        spread = f"{number(self.least)} to {number(self.greatest)}"
        return f"{number(self.median)} ({spread}, n={self.n})"


def summary(samples: Sequence[float]) -> Summary:
    """Summarises the samples, of which there must be at least one."""
    return Summary(
        n=len(samples),
        median=statistics.median(samples),
        least=min(samples),
        greatest=max(samples),
    )


def percentile(samples: Sequence[float], fraction: float) -> float:
    """The smallest sample such that at least this fraction of the samples does not exceed it."""
    rank = max(1, math.ceil(fraction * len(samples)))
    return sorted(samples)[rank - 1]


def paired_ratios(numerators: Sequence[float], denominators: Sequence[float]) -> list[float]:
    """The ratios of samples of the same round, so that a drift of the machine cancels out.

    Raises:
        ValueError: The numbers of samples differ.
    """
    return [a / b for a, b in zip(numerators, denominators, strict=True)]


def slope(points: Sequence[tuple[float, float]]) -> float:
    """The least-squares slope of y over x. Needs at least two points with different x."""
    return statistics.linear_regression([x for x, _ in points], [y for _, y in points]).slope


def number(value: float) -> str:
    """The number with three to four significant digits and separated thousands."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    digits = 2 - math.floor(math.log10(abs(value)))
    return f"{value:.{max(0, digits)}f}"
