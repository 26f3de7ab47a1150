"""Runs the checks of `make lint` that enforce the design, for those who run only pytest."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.repo.files import ROOT

CHECKS = {
    "import contracts": [str(Path(sys.executable).parent / "lint-imports"), "--no-logo"],
    "stubs and events are fresh": [sys.executable, "scripts/gen.py", "--check"],
}


@pytest.mark.parametrize("name", CHECKS)
def test_check_passes(name: str) -> None:
    result = subprocess.run(
        CHECKS[name], cwd=ROOT, check=False, capture_output=True, text=True, timeout=50
    )
    assert result.returncode == 0, result.stdout + result.stderr
