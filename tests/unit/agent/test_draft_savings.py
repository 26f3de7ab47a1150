"""What drafts saved, at the pace of the turn's own tokens."""

from __future__ import annotations

import pytest

from precall_service.agent.draft_savings import DraftSavings


def sampled(savings: DraftSavings, *tokens: tuple[float, int]) -> None:
    savings.begin_step()
    at = 0.0
    for seconds, count in tokens:
        at += seconds
        savings.sample(at, count)


def test_tokens_that_came_together_are_compared_with_those_that_came_alone() -> None:
    savings = DraftSavings()
    sampled(savings, (9.0, 1), (0.1, 1), (0.1, 1), (0.3, 20), (0.1, 1))
    savings.verify(24, 19)
    assert savings.saved_s == pytest.approx(20 * 0.1 - 0.3)
    assert (savings.proposed, savings.accepted) == (24, 19)


def test_the_first_tokens_of_a_step_are_those_of_its_prompt() -> None:
    savings = DraftSavings()
    sampled(savings, (9.0, 5), (0.1, 1))
    savings.verify(5, 4)
    assert savings.saved_s == 0


def test_tokens_that_waited_for_their_reader_saved_nothing() -> None:
    savings = DraftSavings()
    sampled(savings, (1.0, 1), (0.1, 1), (0.5, 5))
    savings.begin_step()
    assert savings.saved_s == 0


def test_all_steps_of_a_turn_count() -> None:
    savings = DraftSavings()
    for _ in range(2):
        sampled(savings, (1.0, 1), (0.1, 1), (0.2, 10))
        savings.verify(10, 9)
    assert savings.saved_s == pytest.approx(2 * 0.8)
    assert savings.accepted == 18


def test_drafts_may_cost_more_than_they_save() -> None:
    savings = DraftSavings()
    sampled(savings, (1.0, 1), (0.1, 1), (0.5, 2))
    savings.verify(10, 1)
    assert savings.saved_s == pytest.approx(-0.3)


def test_without_tokens_that_came_alone_nothing_is_known() -> None:
    savings = DraftSavings()
    sampled(savings, (1.0, 1), (0.5, 20))
    savings.verify(20, 19)
    assert savings.saved_s == 0
