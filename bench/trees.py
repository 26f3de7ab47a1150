"""The files of this repository as they are, and as they were at another commit.

A child process can run from either, so that a bench compares the two in one run.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from bench.process import ChildFailedError

ROOT = Path(__file__).parent.parent

BEFORE_NOBODY_STOPS_THE_LOOP = "77efa77"
"""The last commit before the work against clients that mean harm."""


def environ(tree: Path) -> dict[str, str]:
    """Makes a child import everything from a tree, and nothing from the bench's folder."""
    parts = (tree, tree / "service", tree / "tracing", tree / "clients/python/src")
    return {"PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join(map(str, parts))}


@contextmanager
def checked_out(commit: str, arm: str | None = None) -> Generator[Path]:
    """Yields a folder with the files of a commit, and with this tree's file of an arm, if given.

    Raises:
        ChildFailedError: the repository does not have the commit.
    """
    with tempfile.TemporaryDirectory(prefix="precall-bench-") as folder:
        archive = subprocess.run(
            ["git", "-C", str(ROOT), "archive", commit], check=False, capture_output=True
        )
        if archive.returncode:
            raise ChildFailedError(f"no files of {commit}: {archive.stderr.decode().strip()}")
        subprocess.run(["tar", "-x", "-C", folder], check=True, input=archive.stdout)
        if arm is not None:
            shutil.copy(ROOT / arm, Path(folder) / arm)
        yield Path(folder)
