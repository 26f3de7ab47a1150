"""`make test` runs every test once, and fails if one of them does."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import repeat

import pytest

from tests import __main__ as program


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """The arguments of each run of pytest, all of which pass."""
    return recorded(monkeypatch, repeat(0))


def recorded(monkeypatch: pytest.MonkeyPatch, statuses: Iterator[int]) -> list[tuple[str, ...]]:
    made: list[tuple[str, ...]] = []

    def run(*arguments: str) -> int:
        made.append(arguments)
        return next(statuses)

    monkeypatch.setattr(program, "_run", run)
    return made


def test_each_folder_is_left_out_of_one_run(runs: list[tuple[str, ...]]) -> None:
    folders = [path for path in program.TESTS.iterdir() if path.is_dir()]
    assert program.main(["-k", "turn"]) == 0
    left_out = [argument for run in runs for argument in run if argument.startswith("--ignore=")]
    assert sorted(left_out) == sorted(f"--ignore={path}" for path in folders)
    assert all(run[-2:] == ("-k", "turn") for run in runs)


def test_paths_are_run_alone(runs: list[tuple[str, ...]]) -> None:
    chosen = f"{__file__}::{test_paths_are_run_alone.__name__}"
    assert program.main([chosen, "-x"]) == 0
    assert runs == [(chosen, "-x")]


@pytest.mark.parametrize(
    ("first", "second", "status"),
    [(0, 0, 0), (5, 0, 0), (0, 5, 0), (5, 5, 5), (1, 0, 1), (0, 1, 1), (5, 2, 2)],
)
def test_no_failure_is_lost(
    monkeypatch: pytest.MonkeyPatch, first: int, second: int, status: int
) -> None:
    recorded(monkeypatch, iter((first, second)))
    assert program.main([]) == status
