"""The weights of log-linear models, learned one example at a time.

A candidate's score is the sum of the weights of its features, and its probability is the softmax of
the scores. After each example, the weights take one step along the gradient of the log-likelihood.
The size of the step is that of AdaGrad (Duchi, Hazan and Singer, JMLR 2011), by feature: a feature
that was rarely wrong takes large steps, and one that was often wrong takes small ones. Weights and
squares decay exponentially, so that recent examples count more, and a habit can be unlearned.

Nothing of this is kept in a store: the tables are made again from the kept records (`records`).

Features and outcomes are hashes (`keyed`), so a table holds nothing that a user wrote.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, TypeAlias
from zlib import crc32

Features: TypeAlias = Sequence[tuple[int, float]]
"""Features of a situation, with their values."""

STEP: Final = 1.0
"""The step along the gradient. On BFCL, 0.8 to 1.6 know as many calls; 1.0 is best calibrated."""
SQUARES: Final = 0.1
"""What is added to the squares of a feature's gradients: it bounds the first steps."""
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
    """The weights of features that have no outcomes. At most `weights_max`, each with a square."""

    __slots__ = ("_age", "_max", "squares", "table")

    def __init__(self, age: Age, weights_max: int) -> None:
        self._age = age
        self._max = weights_max
        self.table: dict[int, float] = {}
        self.squares: dict[int, float] = {}

    def total(self, keys: Iterable[int]) -> float:
        """Returns the sum of the weights of these features."""
        get = self.table.get
        return sum([get(key, 0.0) for key in keys]) * self._age.scale

    def value(self, key: int) -> float:
        """Returns the weight of one feature."""
        return self.table.get(key, 0.0) * self._age.scale

    def learn(self, keys: Iterable[int], gradient: float) -> None:
        """Takes one step; `gradient` is that of each of these features."""
        scale, table, squares = self._age.scale, self.table, self.squares
        for key in keys:
            seen = squares[key] = squares.get(key, 0.0) + gradient * gradient / scale
            step = STEP * gradient / math.sqrt(SQUARES + seen * scale)
            table[key] = table.get(key, 0.0) + step / scale
        while len(table) > self._max:
            del squares[_drop_one(table, _SMALL / scale)]

    def rebase(self) -> None:
        """Applies the scale to the stored weights, before it is set to 1."""
        scale = self._age.scale
        _multiply(self.table, scale)
        _multiply(self.squares, scale)


def _drop_one(table: dict[int, float], small: float) -> int:
    """Drops the oldest weight that is small, or else the oldest, and returns its key.

    This is the CLOCK algorithm: a weight that is kept is put at the end.
    """
    for _ in range(_SECOND_CHANCES):
        key = next(iter(table))
        weight = table.pop(key)
        if abs(weight) < small:
            return key
        table[key] = weight
    key = next(iter(table))
    del table[key]
    return key


def _multiply(table: dict[int, float], factor: float) -> None:
    for key in table:
        table[key] *= factor


class Choice:
    """A choice among outcomes by features of the situation. At most `weights_max` weights.

    It is kept by feature, so that scoring takes only as long as there is something learned. The
    outcomes of a feature share one sum of squares, of the largest gradients. On BFCL, one for each
    weight knows no more calls and takes two thirds more memory.
    """

    __slots__ = ("_age", "_count", "_max", "squares", "table")

    def __init__(self, age: Age, weights_max: int) -> None:
        self._age = age
        self._max = weights_max
        self.table: dict[int, dict[int, float]] = {}
        self.squares: dict[int, float] = {}
        self._count = 0

    def scores(self, features: Features, outcomes: Iterable[int]) -> dict[int, float]:
        """Returns the score of each of these outcomes, in their order."""
        scores = dict.fromkeys(outcomes, 0.0)
        table, scale = self.table, self._age.scale
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
        scale, squares = self._age.scale, self.squares
        steepest = max(map(abs, gradients.values()))
        for feature, value in features:
            slope = steepest * value
            seen = squares[feature] = squares.get(feature, 0.0) + slope * slope / scale
            step = STEP * value / math.sqrt(SQUARES + seen * scale) / scale
            row = self.table.setdefault(feature, {})
            before = len(row)
            for outcome, gradient in gradients.items():
                row[outcome] = row.get(outcome, 0.0) + step * gradient
            self._count += len(row) - before
        while self._count > self._max:
            self._drop_row()

    def rebase(self) -> None:
        """Applies the scale to the stored weights, before it is set to 1."""
        scale = self._age.scale
        for row in (*self.table.values(), self.squares):
            _multiply(row, scale)

    def __len__(self) -> int:
        return self._count

    def _drop_row(self) -> None:
        """Drops the oldest feature whose weights are small, or else the oldest."""
        small = _SMALL / self._age.scale
        for _ in range(_SECOND_CHANCES):
            feature = next(iter(self.table))
            row = self.table.pop(feature)
            if max(map(abs, row.values()), default=0.0) < small:
                break
            self.table[feature] = row
        else:
            feature = next(iter(self.table))
            row = self.table.pop(feature)
        self._count -= len(row)
        del self.squares[feature]


def gradients(scores: Mapping[int, float], right: Mapping[int, float]) -> dict[int, float]:
    """Returns the gradient of each score: its target in `right`, or 0, less its probability.

    Small gradients are left out.
    """
    found = zip(scores, probabilities(list(scores.values())), strict=True)
    steps = ((outcome, right.get(outcome, 0.0) - chance) for outcome, chance in found)
    return {outcome: step for outcome, step in steps if abs(step) >= GRADIENT_MIN}
