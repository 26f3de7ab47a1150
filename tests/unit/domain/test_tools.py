"""Effects of tools: what a declaration allows."""

from __future__ import annotations

from dataclasses import replace

import pytest

from precall_service.domain.tools import ToolEffects

SAFE = ToolEffects(read_only=True, speculation_safe=True)


def test_a_tool_that_is_declared_safe_may_run_early() -> None:
    assert SAFE.may_run_early(open_world_allowed=False)
    reader = replace(SAFE, idempotent=True, reads=("file:{path}",))
    assert reader.may_run_early(open_world_allowed=False)


def test_the_operator_may_allow_an_open_world_tool() -> None:
    searching = replace(SAFE, open_world=True)
    assert searching.may_run_early(open_world_allowed=True)


@pytest.mark.parametrize(
    "effects",
    [
        ToolEffects(),
        ToolEffects(read_only=True),
        ToolEffects(speculation_safe=True),
        replace(SAFE, open_world=True),
        replace(SAFE, requires_approval=True),
    ],
)
def test_every_other_tool_may_not(effects: ToolEffects) -> None:
    assert not effects.may_run_early(open_world_allowed=False)
    if not effects.open_world:
        assert not effects.may_run_early(open_world_allowed=True)
