"""The weights of log-linear models, learned one example at a time.

A candidate's score is the sum of the weights of its features, and its probability is the softmax of
the scores. After each example, the weights take one step along the gradient of the log-likelihood
(Bottou, "Online Learning and Stochastic Approximations", 1998). The step has a constant size, so
recent examples count more than old ones. Besides, all weights of a tenant decay exponentially.

Features and outcomes are hashes (`keyed`), so a table holds nothing that a user wrote.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, TypeAlias
from zlib import crc32

Features: TypeAlias = Sequence[tuple[int, float]]
"""Features of a situation, with their values."""

STEP: Final = 0.6
"""The step along the gradient; on BFCL, 0.3 to 1.0 are about as good."""
GRADIENT_MIN: Final = 0.005
"""Smaller gradients are not worth an update."""

_SECOND_CHANCES: Final = 8
_SMALL: Final = 0.05
_SCALE_MIN: Final = 1e-200


def keyed(*parts: str) -> int:
    """Returns a hash of texts, of 32 bits, that is the same in every process."""
    return crc32("\0".join(parts).encode(errors="surrogatepass"))


def mixed(key: int, number: int) -> int:
    """Returns a hash of a hash and a small number."""
    return (key ^ (number * 0x9E3779B1)) & 0xFFFFFFFF


def probabilities(scores: Sequence[float]) -> list[float]:
    """Returns the softmax of the scores."""
    highest = max(scores, default=0.0)
    powers = [math.exp(score - highest) for score in scores]
    total = sum(powers)
    return [power / total for power in powers]


class Age:
    """How much the weights of a tenant have decayed. One per tenant.

    Tables keep each weight divided by the scale at its last update, so nothing has to be done to a
    weight while it decays.
    """

    def __init__(self, half_life_calls: int) -> None:
        self._factor = 0.5 ** (1 / half_life_calls)
        self.scale = 1.0

    def tick(self) -> None:
        """Lets one call pass."""
        self.scale *= self._factor

    def over(self) -> bool:
        """Whether the tables must be rebased: `scale` is about to become too small to divide by."""
        return self.scale < _SCALE_MIN


class Pointers:
    """The weights of features that have no outcomes. At most `weights_max` of them."""

    __slots__ = ("_age", "_max", "table")

    def __init__(self, age: Age, weights_max: int) -> None:
        self._age = age
        self._max = weights_max
        self.table: dict[int, float] = {}

    def total(self, keys: Iterable[int]) -> float:
        """Returns the sum of the weights of these features."""
        get = self.table.get
        return sum([get(key, 0.0) for key in keys]) * self._age.scale

    def value(self, key: int) -> float:
        """Returns the weight of one feature."""
        return self.table.get(key, 0.0) * self._age.scale

    def learn(self, keys: Iterable[int], gradient: float) -> None:
        """Takes one step; `gradient` is that of each of these features."""
        step = STEP * gradient / self._age.scale
        table = self.table
        for key in keys:
            table[key] = table.get(key, 0.0) + step
        while len(table) > self._max:
            _drop_one(table, _SMALL / self._age.scale)

    def rebase(self) -> None:
        """Applies the scale to the stored weights, before it is set to 1."""
        scale = self._age.scale
        self.table = {key: weight * scale for key, weight in self.table.items()}


def _drop_one(table: dict[int, float], small: float) -> None:
    """Drops the oldest weight that is small, or else the oldest.

    This is the CLOCK algorithm: a weight that is kept is put at the end.
    """
    for _ in range(_SECOND_CHANCES):
        key = next(iter(table))
        weight = table.pop(key)
        if abs(weight) < small:
            return
        table[key] = weight
    del table[next(iter(table))]


class Choice:
    """A choice among outcomes by features of the situation. At most `weights_max` weights.

    It is kept by feature, so that scoring takes only as long as there is something learned.
    """

    __slots__ = ("_age", "_count", "_max", "_table")

    def __init__(self, age: Age, weights_max: int) -> None:
        self._age = age
        self._max = weights_max
        self._table: dict[int, dict[int, float]] = {}
        self._count = 0

    def scores(self, features: Features, outcomes: Iterable[int]) -> dict[int, float]:
        """Returns the score of each of these outcomes, in their order."""
        scores = dict.fromkeys(outcomes, 0.0)
        table, scale = self._table, self._age.scale
        for feature, value in features:
            row = table.get(feature)
            if row is not None:
                value *= scale  # noqa: PLW2901 - hot
                for outcome, weight in row.items():
                    if outcome in scores:
                        scores[outcome] += weight * value
        return scores

    def learn(self, features: Features, gradients: Mapping[int, float]) -> None:
        """Takes one step; the gradients are those of the outcomes' scores."""
        if not gradients:
            return
        for feature, value in features:
            row = self._table.setdefault(feature, {})
            step = STEP * value / self._age.scale
            before = len(row)
            for outcome, gradient in gradients.items():
                row[outcome] = row.get(outcome, 0.0) + step * gradient
            self._count += len(row) - before
        while self._count > self._max:
            self._drop_row()

    def rebase(self) -> None:
        """Applies the scale to the stored weights, before it is set to 1."""
        scale = self._age.scale
        for row in self._table.values():
            for outcome in row:
                row[outcome] *= scale

    def __len__(self) -> int:
        return self._count

    def _drop_row(self) -> None:
        """Drops the oldest feature whose weights are small, or else the oldest."""
        small = _SMALL / self._age.scale
        for _ in range(_SECOND_CHANCES):
            feature = next(iter(self._table))
            row = self._table.pop(feature)
            if max(map(abs, row.values()), default=0.0) < small:
                self._count -= len(row)
                return
            self._table[feature] = row
        self._count -= len(self._table.pop(next(iter(self._table))))


def gradients(scores: Mapping[int, float], right: Mapping[int, float]) -> dict[int, float]:
    """Returns the gradient of each score: its target in `right`, or 0, less its probability.

    Small gradients are left out.
    """
    found = zip(scores, probabilities(list(scores.values())), strict=True)
    steps = ((outcome, right.get(outcome, 0.0) - chance) for outcome, chance in found)
    return {outcome: step for outcome, step in steps if abs(step) >= GRADIENT_MIN}
