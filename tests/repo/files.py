"""The files of this repository that git tracks, as the tests about them see them."""

from __future__ import annotations

import functools
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
STUBS = "clients/python/src/precall/v1/"
GENERATED = "Generated from proto/precall/v1 by `make gen`. Do not edit."
BINARY = {".binpb", ".gif", ".png"}


@functools.cache
def tracked() -> tuple[str, ...]:
    """Returns the paths that git tracks and that are there, or are new and not ignored."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listing = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return tuple(sorted(path for path in listing.split("\0") if path and (ROOT / path).is_file()))


def written(*suffixes: str) -> list[str]:
    """Returns the tracked text files that people write, with one of `suffixes` if there are any."""
    return [
        path
        for path in tracked()
        if not path.startswith(STUBS)
        and Path(path).suffix not in BINARY
        and (not suffixes or path.endswith(suffixes))
        and not is_generated(path)
    ]


def is_generated(path: str) -> bool:
    """Returns whether a module's docstring says so."""
    return path.endswith(".py") and GENERATED in text(path).splitlines()[:10]


def text(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def copy(folder: str, target: Path) -> Path:
    """Copies the tracked files of `folder` to `target`, as in a fresh clone; returns the copy."""
    for path in tracked():
        if path.startswith(f"{folder}/"):
            destination = target / path
            destination.parent.mkdir(parents=True, exist_ok=True)
            destination.write_bytes((ROOT / path).read_bytes())
    return target / folder
