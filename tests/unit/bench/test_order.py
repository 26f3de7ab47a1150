"""Each round begins with another arm."""

from __future__ import annotations

from bench.order import rotated


def test_each_arm_comes_first_in_its_round() -> None:
    arms = ("a", "b", "c")
    assert [rotated(arms, number) for number in range(4)] == [
        ["a", "b", "c"],
        ["b", "c", "a"],
        ["c", "a", "b"],
        ["a", "b", "c"],
    ]
