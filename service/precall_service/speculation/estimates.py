"""What the past says about a prediction: how probable it is, how long its handler takes, its lead.

Never: reads a clock. Durations are in seconds.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from typing import Final

BINS: Final = 10
"""Bins of confidence, each of which quadruples the odds: from below 1 : 4096 to above 16 : 1."""
DECAY: Final = 0.98
"""What each observation leaves of the weight of the earlier ones: half of it after 34."""
PRIOR_WEIGHT: Final = 3.0
"""How many observations a predictor's own confidence is worth."""
WINDOW: Final = 16
"""The durations that are remembered of a tool or a predictor."""
UNKNOWN_S: Final = 1.0
"""What a duration is taken for that was never observed."""


class Acceptance:
    """How often predictions of a certain confidence come true: decayed Beta counts, in bins.

    Until a bin has its own observations, it is estimated from a prior: another acceptance, which
    observes the same and more, or else the confidence itself. The prior is corrected by how much
    less, or more, has come true than it promised.
    """

    def __init__(self, prior: Acceptance | None = None) -> None:
        self._prior = prior
        self._hits = [0.0] * BINS
        self._seen = [0.0] * BINS
        self._all_hits = 0.0
        self._expected = 0.0

    def probability(self, confidence: float) -> float:
        """Returns the probability that a prediction of this confidence comes true."""
        index = _bin(confidence)
        correction = (self._all_hits + PRIOR_WEIGHT) / (self._expected + PRIOR_WEIGHT)
        prior = min(1.0, self._expects(confidence) * correction)
        return (self._hits[index] + PRIOR_WEIGHT * prior) / (self._seen[index] + PRIOR_WEIGHT)

    def observe(self, confidence: float, *, matched: bool) -> None:
        """Notes whether a prediction of this confidence came true."""
        index = _bin(confidence)
        self._hits[index] = DECAY * self._hits[index] + matched
        self._seen[index] = DECAY * self._seen[index] + 1.0
        self._all_hits = DECAY * self._all_hits + matched
        self._expected = DECAY * self._expected + self._expects(confidence)
        if self._prior is not None:
            self._prior.observe(confidence, matched=matched)

    def _expects(self, confidence: float) -> float:
        return confidence if self._prior is None else self._prior.probability(confidence)


class Durations:
    """The latest durations of one kind."""

    def __init__(self) -> None:
        self._seen: deque[float] = deque(maxlen=WINDOW)

    @property
    def known(self) -> bool:
        """Whether there is any."""
        return bool(self._seen)

    @property
    def typical_s(self) -> float:
        """The median; UNKNOWN_S if there is none."""
        return statistics.median(self._seen) if self._seen else UNKNOWN_S

    def within(self, limit_s: float) -> float:
        """Returns the mean of the durations, each cut off at the limit."""
        if not self._seen:
            return min(UNKNOWN_S, limit_s)
        return sum(min(each, limit_s) for each in self._seen) / len(self._seen)

    def observe(self, seconds: float) -> None:
        """Notes a duration."""
        self._seen.append(seconds)


def _bin(confidence: float) -> int:
    if not 0.0 < confidence < 1.0:
        return 0 if confidence <= 0.0 else BINS - 1
    odds = math.log2(confidence / (1.0 - confidence))
    return max(0, min(BINS - 1, int((odds + 14.0) / 2.0)))
