"""What was not used for longest is forgotten first."""

from __future__ import annotations

import pytest

from precall_service.engine.vllm.recent import Recent


def test_what_was_read_or_written_last_is_kept() -> None:
    recent: Recent[str, int | None] = Recent(2)
    recent["a"], recent["b"] = 1, None
    assert recent["a"] == 1
    recent["c"] = 3
    assert ("a" in recent, "b" in recent, "c" in recent) == (True, False, True)
    recent["a"] = 4
    recent["d"] = 5
    assert (recent["a"], recent["d"], len(recent)) == (4, 5, 2)
    with pytest.raises(KeyError):
        recent["c"]


def test_everything_can_be_forgotten() -> None:
    recent: Recent[str, int] = Recent(2)
    recent["a"] = 1
    recent.clear()
    assert len(recent) == 0
