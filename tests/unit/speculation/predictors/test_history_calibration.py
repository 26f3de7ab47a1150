"""Confidences that hold on average."""

from __future__ import annotations

import random

import pytest

from precall_service.speculation.predictors.history.calibration import Calibration
from precall_service.speculation.predictors.history.weights import Age

ESTIMATES = [number / 200 for number in range(1, 200)]


def brier(pairs: list[tuple[float, bool]]) -> float:
    """The mean squared error of probabilities (Brier, 1950)."""
    return sum((chance - made) ** 2 for chance, made in pairs) / len(pairs)


@pytest.fixture
def calibration() -> Calibration:
    return Calibration(Age(1000))


def test_it_starts_from_the_estimates(calibration: Calibration) -> None:
    for estimate in (0.05, 0.3, 0.5, 0.7, 0.95):
        assert calibration.confidence(estimate) == pytest.approx(estimate, abs=0.03)


@pytest.mark.parametrize("power", [0.3, 3.0], ids=["too low", "too high"])
def test_it_corrects_estimates_that_are_wrong(calibration: Calibration, power: float) -> None:
    chance = random.Random(7)

    def outcomes(count: int) -> list[tuple[float, bool]]:
        drawn = [chance.random() for _ in range(count)]
        return [(estimate, chance.random() < estimate**power) for estimate in drawn]

    for estimate, made in outcomes(3000):
        calibration.learn(estimate, made=made, repeats=False)
    new = outcomes(2000)
    corrected = [(calibration.confidence(estimate), made) for estimate, made in new]
    assert brier(corrected) < 0.9 * brier(new)
    assert brier(corrected) < 1.03 * brier([(estimate**power, made) for estimate, made in new])


def test_it_is_monotone_and_a_probability(calibration: Calibration) -> None:
    chance = random.Random(1)
    for _ in range(200):
        calibration.learn(
            chance.random(), made=chance.random() < 0.5, repeats=chance.random() < 0.5
        )
    found = [calibration.confidence(estimate) for estimate in (0.0, *ESTIMATES, 1.0)]
    assert found == sorted(found)
    assert found[0] >= 0.0
    assert found[-1] <= 1.0


@pytest.mark.parametrize("made", [True, False])
def test_repetitions_are_corrected_by_themselves(calibration: Calibration, *, made: bool) -> None:
    for _ in range(50):
        calibration.learn(0.5, made=made, repeats=True)
    corrected = calibration.estimated(0.5, repeats=True)
    assert corrected > 0.9 if made else corrected < 0.02
    assert calibration.estimated(0.5, repeats=False) == 0.5


def test_old_outcomes_count_less() -> None:
    age = Age(10)
    calibration = Calibration(age)
    for made in (False, True):
        for _ in range(50):
            calibration.learn(0.58, made=made, repeats=False)
            age.tick()
    assert calibration.confidence(0.58) > 0.75
