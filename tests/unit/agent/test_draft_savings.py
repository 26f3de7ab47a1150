"""What drafts saved, at the pace of the turn's own tokens until then."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from precall_service.agent.account import (
    DraftsSaved,
    DraftsVerified,
    Happening,
    Sampled,
    StepBegan,
)
from precall_service.agent.draft_savings import DraftSavings
from precall_service.engine.drafts import Draft, VerifiedDraft
from precall_service.engine.vllm.token_prompt import TokenPrompt
from tests.support.steps import asked, step_spec


class Turn:
    """A turn whose steps are told to its savings, and what they noted."""

    def __init__(self) -> None:
        self.noted: list[DraftsSaved] = []
        self._savings = DraftSavings(self.noted.append)
        self._at = 0.0

    def step(
        self, *tokens: tuple[float, int], drafts: Sequence[VerifiedDraft] = (), others: int = 0
    ) -> None:
        """A step that sampled tokens, so many each time, after so many seconds."""
        self._observe(StepBegan(0, TokenPrompt(()), step_spec(), asked("hi")))
        for seconds, count in tokens:
            self._at += seconds
            self._observe(Sampled(tuple(range(count)), (), self._at))
        if drafts or others:
            proposed = others + sum(each.proposed_tokens for each in drafts)
            accepted = others + sum(each.accepted_tokens for each in drafts)
            self._observe(DraftsVerified(proposed, accepted, tuple(drafts)))

    def _observe(self, happening: Happening) -> None:
        self._savings.observe(self._at, happening)


def draft(proposed: int, accepted: int, name: str = "p1") -> VerifiedDraft:
    return VerifiedDraft(Draft("weather", "{}", name), proposed, accepted)


def test_tokens_that_came_together_are_compared_with_those_that_came_alone() -> None:
    turn = Turn()
    turn.step((9.0, 1), (0.1, 1), (0.1, 1), (0.3, 20), (0.1, 1), drafts=[draft(24, 19)])
    [saved] = turn.noted
    assert saved.saved_s == pytest.approx(20 * 0.1 - 0.3)
    assert (saved.proposed, saved.accepted) == (24, 19)


def test_each_draft_has_its_part() -> None:
    turn = Turn()
    ends = VerifiedDraft(None, 4, 4)
    drafts = [draft(20, 12, "right"), draft(48, 0, "wrong"), ends]
    turn.step((9.0, 1), (0.1, 1), (0.2, 13), (0.2, 5), drafts=drafts)
    [saved] = turn.noted
    assert saved.saved_s == pytest.approx(18 * 0.1 - 0.4)
    parts = {each.prediction_id: each for each in saved.drafts}
    assert parts["right"].saved_s == pytest.approx(saved.saved_s * 12 / 16)
    assert parts["wrong"].saved_s == 0.0
    assert parts[""].saved_s == pytest.approx(saved.saved_s * 4 / 16)
    assert (parts["wrong"].proposed, parts["wrong"].accepted) == (48, 0)


def test_tokens_of_the_engines_own_method_have_their_part_too() -> None:
    turn = Turn()
    turn.step((9.0, 1), (0.1, 1), (0.2, 13), drafts=[draft(6, 6)], others=6)
    [saved] = turn.noted
    assert saved.drafts[0].saved_s == pytest.approx(saved.saved_s / 2)


def test_the_first_tokens_of_a_step_are_those_of_its_prompt() -> None:
    turn = Turn()
    turn.step((9.0, 5), (0.1, 1), drafts=[draft(5, 4)])
    assert turn.noted[0].saved_s == 0


def test_tokens_that_waited_for_their_reader_saved_nothing() -> None:
    turn = Turn()
    turn.step((1.0, 1), (0.1, 1), (0.5, 5))
    turn.step((1.0, 1), (0.1, 1), drafts=[draft(5, 0)])
    assert turn.noted[0].saved_s == 0


def test_the_pace_is_that_of_all_steps_until_then() -> None:
    turn = Turn()
    turn.step((1.0, 1), (0.1, 1))
    turn.step((1.0, 1), (0.2, 10), drafts=[draft(10, 9)])
    assert turn.noted[0].saved_s == pytest.approx(0.8)


def test_drafts_may_cost_more_than_they_save() -> None:
    turn = Turn()
    turn.step((1.0, 1), (0.1, 1), (0.5, 2), drafts=[draft(10, 1)])
    assert turn.noted[0].saved_s == pytest.approx(-0.3)


def test_without_tokens_that_came_alone_nothing_is_known() -> None:
    turn = Turn()
    turn.step((1.0, 1), (0.5, 20), drafts=[draft(20, 19)])
    assert turn.noted[0].saved_s == 0
