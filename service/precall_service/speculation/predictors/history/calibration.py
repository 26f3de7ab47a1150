"""Turns estimated probabilities into confidences that hold on average.

The estimates are sorted into bins by their log-odds. Each bin counts how many of its proposals were
made, with exponential decay. The fractions are made monotone by pooling adjacent violators (Ayer et
al. 1955, as in isotonic calibration by Zadrozny and Elkan, KDD 2002), and interpolated in between.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from typing import Final

from precall_service.speculation.predictors.history.weights import Age

BINS: Final = 12
PRIOR: Final = 4.0
"""An empty bin counts as this many proposals whose estimates hold."""

_EDGE: Final = 4.0
_LOWEST: Final = 1e-4


class Calibration:
    """Learns how often proposals with an estimate are made."""

    def __init__(self, age: Age) -> None:
        self._age = age
        width = 2 * _EDGE / BINS
        self._centres = [-_EDGE + width * (index + 0.5) for index in range(BINS)]
        self._edges = [-_EDGE + width * index for index in range(1, BINS)]
        self._made = [0.0] * BINS
        self._all = [0.0] * BINS
        self._repeats_made = 0.0
        self._repeats_expected = 0.0
        self._fractions: list[float] | None = None

    def learn(self, estimate: float, *, made: bool, repeats: bool) -> None:
        """Learns the outcome of a proposal, by its estimate before any correction."""
        weight = 1 / self._age.scale
        if repeats:
            self._repeats_expected += estimate * weight
            self._repeats_made += made * weight
        index = bisect_right(self._edges, _log_odds(self.estimated(estimate, repeats=repeats)))
        self._made[index] += made * weight
        self._all[index] += weight
        self._fractions = None

    def estimated(self, estimate: float, *, repeats: bool) -> float:
        """Returns an estimate, corrected if the proposal repeats a call of the turn."""
        if not repeats:
            return estimate
        scale = self._age.scale
        factor = (self._repeats_made * scale + 0.2) / (self._repeats_expected * scale + 0.4)
        return min(1.0, estimate * factor)

    def confidence(self, estimate: float) -> float:
        """Returns the calibrated probability of a (corrected) estimate. It is monotone."""
        if self._fractions is None:
            self._fractions = self._pooled()
        fractions, place = self._fractions, _log_odds(estimate)
        after = bisect_right(self._centres, place)
        if after == 0:
            return min(fractions[0], estimate)
        if after == BINS:
            return fractions[-1]
        low, high = self._centres[after - 1], self._centres[after]
        share = (place - low) / (high - low)
        return fractions[after - 1] + (fractions[after] - fractions[after - 1]) * share

    def rebase(self) -> None:
        """Applies the scale to the counts, before it is set to 1."""
        scale = self._age.scale
        self._made = [count * scale for count in self._made]
        self._all = [count * scale for count in self._all]
        self._repeats_made *= scale
        self._repeats_expected *= scale

    def _pooled(self) -> list[float]:
        """Returns the fraction of each bin, monotone."""
        scale = self._age.scale
        blocks: list[tuple[float, float, int]] = []
        for made, all_, centre in zip(self._made, self._all, self._centres, strict=True):
            prior = PRIOR / (1 + math.exp(-centre))
            block = (made * scale + prior, all_ * scale + PRIOR, 1)
            while blocks and blocks[-1][0] / blocks[-1][1] > block[0] / block[1]:
                before = blocks.pop()
                block = (before[0] + block[0], before[1] + block[1], before[2] + block[2])
            blocks.append(block)
        return [made / all_ for made, all_, bins in blocks for _ in range(bins)]


def _log_odds(probability: float) -> float:
    bounded = min(max(probability, _LOWEST), 1 - _LOWEST)
    return math.log(bounded / (1 - bounded))
