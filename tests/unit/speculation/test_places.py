"""What branches were worth, by where they began."""

from __future__ import annotations

import itertools

import pytest

from precall_service.speculation.estimates import UNKNOWN_S
from precall_service.speculation.places import (
    PLACES,
    SAVES_FIRST_S,
    SAVES_LATER_S,
    WINS_FIRST,
    WINS_LATER,
    Places,
)


def test_a_place_reaches_to_the_next_one() -> None:
    places = Places()
    for place, following in itertools.pairwise(PLACES):
        assert places.at(place) is places.at(following - 1)
        assert places.at(place) is not places.at(following)
    assert places.at(PLACES[-1]) is places.at(10**6)


def test_what_is_taken_for_granted() -> None:
    first, later = Places().at(0), Places().at(16)
    assert first.win_rate == pytest.approx(WINS_FIRST)
    assert later.win_rate == pytest.approx(WINS_LATER)
    assert first.lead_s == first.takes_s == UNKNOWN_S
    assert first.draft_saves_s == pytest.approx(SAVES_FIRST_S)
    assert later.draft_saves_s == pytest.approx(SAVES_LATER_S)


@pytest.mark.parametrize(("wins", "rate"), [(0, 0.0), (1, 0.5), (2, 1.0)])
def test_the_rate_of_wins_is_learned(wins: int, rate: float) -> None:
    place = Places().at(0)
    for number in range(200):
        place.begin()
        if number % 2 < wins:
            place.win()
    assert place.win_rate == pytest.approx(rate, abs=0.05)


@pytest.mark.parametrize(("saved_s", "every"), [(0.0, 1), (2.0, 2), (3.0, 1)])
def test_what_drafts_save_is_the_mean_of_all_branches(saved_s: float, every: int) -> None:
    place = Places().at(0)
    for number in range(200):
        place.begin()
        if number % every == 0:
            place.save(saved_s)
    assert place.draft_saves_s == pytest.approx(saved_s / every, rel=0.1, abs=0.05)


def test_newer_branches_count_more() -> None:
    place = Places().at(0)
    for _ in range(500):
        place.begin()
        place.win()
    for _ in range(100):
        place.begin()
    assert place.win_rate < 0.2


def test_times_are_typical_ones() -> None:
    place = Places().at(0)
    for takes_s, lead_s in ((1.0, 9.0), (2.0, 8.0), (30.0, 7.0)):
        place.propose(takes_s, lead_s)
    assert (place.takes_s, place.lead_s) == (2.0, 8.0)


def test_new_tools_start_from_what_is_known_of_the_others() -> None:
    tenant = Places()
    known, new = Places(tenant), Places(tenant)
    for _ in range(50):
        known.at(16).begin()
        known.at(16).win()
        known.at(16).save(4.0)
        known.at(16).propose(0.5, 0.25)
    assert new.at(16).win_rate > 0.8
    assert new.at(16).draft_saves_s > 3.5
    assert (new.at(16).takes_s, new.at(16).lead_s) == (0.5, 0.25)
    assert new.at(0).win_rate == pytest.approx(WINS_FIRST), "another place"
    for _ in range(50):
        new.at(16).begin()
    assert new.at(16).win_rate < 0.1, "their own branches count more"
    assert known.at(16).win_rate > 0.9
