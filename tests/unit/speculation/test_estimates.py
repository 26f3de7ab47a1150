"""What is learned of acceptance and durations moves the right way, within its bounds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from precall_service.speculation.estimates import UNKNOWN_S, WINDOW, Acceptance, Durations

CONFIDENCES = [0.0, 0.05, 0.3, 0.5, 0.75, 0.99, 1.0]


@pytest.mark.parametrize("confidence", CONFIDENCES)
def test_an_unknown_predictor_is_believed(confidence: float) -> None:
    assert Acceptance().probability(confidence) == pytest.approx(confidence)


@pytest.mark.parametrize("confidence", [0.3, 0.5, 0.75, 0.99])
def test_what_comes_true_becomes_more_probable_and_what_does_not_less(confidence: float) -> None:
    right, wrong = Acceptance(), Acceptance()
    last = confidence, confidence
    for _ in range(20):
        right.observe(confidence, matched=True)
        wrong.observe(confidence, matched=False)
        now = right.probability(confidence), wrong.probability(confidence)
        assert now[0] > last[0]
        assert now[1] < last[1]
        last = now
    assert last[0] > 0.85
    assert last[1] < 0.15


def test_a_first_observation_by_hand() -> None:
    acceptance = Acceptance()
    acceptance.observe(0.5, matched=False)
    # The prior of 0.5 is corrected by (0 + 3) / (0.5 + 3), and weighs as much as 3 observations.
    assert acceptance.probability(0.5) == pytest.approx(3 * 0.5 * 3 / 3.5 / 4)
    # Another bin has only the correction.
    assert acceptance.probability(0.95) == pytest.approx(0.95 * 3 / 3.5)


def test_small_confidences_are_told_apart() -> None:
    """The probability of a whole call is a product, and rarely large."""
    acceptance = Acceptance()
    for _ in range(20):
        acceptance.observe(0.05, matched=True)
        acceptance.observe(0.001, matched=False)
    assert acceptance.probability(0.05) > 0.8
    assert acceptance.probability(0.001) < 0.01


def test_what_is_not_known_yet_is_taken_from_the_prior() -> None:
    everywhere = Acceptance()
    one = Acceptance(everywhere)
    for _ in range(20):
        one.observe(0.05, matched=True)
    other = Acceptance(everywhere)
    assert other.probability(0.05) == everywhere.probability(0.05) > 0.8
    for _ in range(20):
        other.observe(0.05, matched=False)
    assert other.probability(0.05) < 0.2 < everywhere.probability(0.05) < one.probability(0.05)


def test_one_bin_says_little_of_another() -> None:
    acceptance = Acceptance()
    for _ in range(100):
        acceptance.observe(0.95, matched=True)
        acceptance.observe(0.15, matched=False)
    assert acceptance.probability(0.95) > 0.9
    assert acceptance.probability(0.15) < 0.1


def test_what_is_long_past_counts_little() -> None:
    acceptance = Acceptance()
    for _ in range(200):
        acceptance.observe(0.9, matched=True)
    for _ in range(100):
        acceptance.observe(0.9, matched=False)
    assert acceptance.probability(0.9) < 0.2


@given(
    st.lists(st.tuples(st.floats(0, 1), st.booleans()), max_size=60),
    st.floats(0, 1),
)
def test_probabilities_are_from_0_to_1(seen: list[tuple[float, bool]], confidence: float) -> None:
    acceptance = Acceptance()
    for each, matched in seen:
        acceptance.observe(each, matched=matched)
    assert 0 <= acceptance.probability(confidence) <= 1 + 1e-9


def test_unknown_durations() -> None:
    durations = Durations()
    assert not durations.known
    assert durations.typical_s == UNKNOWN_S
    assert (durations.within(0.25), durations.within(9.0)) == (0.25, UNKNOWN_S)


def test_durations_by_hand() -> None:
    durations = Durations()
    for seconds in (1.0, 2.0, 9.0):
        durations.observe(seconds)
    assert durations.known
    assert durations.typical_s == 2
    assert durations.within(3.0) == 2  # the mean of 1, 2 and 3
    assert durations.within(0.5) == 0.5
    assert durations.within(100.0) == 4


def test_only_the_latest_durations_are_remembered() -> None:
    durations = Durations()
    for _ in range(1000):
        durations.observe(100.0)
    for _ in range(WINDOW):
        durations.observe(1.0)
    assert durations.within(1000.0) == 1
