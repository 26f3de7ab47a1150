"""Which calls meet a tool choice, and what the next step may choose."""

from __future__ import annotations

import pytest

from precall_service.domain.turn import ToolChoice, ToolChoiceMode

AUTO, NONE = ToolChoice(), ToolChoice(mode=ToolChoiceMode.NONE)
REQUIRED = ToolChoice(mode=ToolChoiceMode.REQUIRED)
NAMED = ToolChoice(mode=ToolChoiceMode.NAMED, tool_name="a")


@pytest.mark.parametrize(
    ("choice", "called", "met", "after"),
    [
        (AUTO, (), True, AUTO),
        (AUTO, ("a",), True, AUTO),
        (NONE, (), True, NONE),
        (NONE, ("a",), True, NONE),
        (REQUIRED, (), False, REQUIRED),
        (REQUIRED, ("b",), True, AUTO),
        (NAMED, (), False, NAMED),
        (NAMED, ("b",), False, NAMED),
        (NAMED, ("b", "a"), True, AUTO),
    ],
)
def test_a_choice_holds_until_it_is_met(
    choice: ToolChoice, called: tuple[str, ...], met: bool, after: ToolChoice
) -> None:
    assert choice.is_met_by(called) is met
    assert choice.after(called) == after
