"""Runs all tests: those that can stand others beside them on all cores, then the rest one by one.

Arguments are those of pytest. With paths among them, these tests are run, one by one.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pytest

TESTS: Final = Path(__file__).parent
AT_ONCE: Final = ("unit", "clients", "repo", "properties", "integration")
"""The folders whose tests can stand others beside them. Those that need an engine run one after the
other, in one process: see `OneEngine`."""
WORKERS_MAX: Final = 4
"""How many processes run them at most. Each has imported vLLM, which takes a GiB."""
_ON_ALL_CORES: Final = ("-n", "auto", "--maxprocesses", str(WORKERS_MAX))


def main(arguments: Sequence[str]) -> int:
    """Returns 0 if tests were found and all passed, else the status of pytest."""
    if any(Path(each.partition("::")[0]).exists() for each in arguments):
        return _run(*arguments)
    others = [path.name for path in TESTS.iterdir() if path.is_dir() and path.name not in AT_ONCE]
    statuses = (
        _run(*_ON_ALL_CORES, *_without(others), *arguments),
        _run(*_without(AT_ONCE), *arguments),
    )
    no_failure = (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)
    failed = [status for status in statuses if status not in no_failure]
    return failed[0] if failed else min(statuses)


def _run(*arguments: str) -> int:
    return subprocess.run([sys.executable, "-m", "pytest", *arguments], check=False).returncode


def _without(folders: Sequence[str]) -> list[str]:
    return [f"--ignore={TESTS / name}" for name in folders]


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
