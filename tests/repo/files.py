"""The files of this repository that the tests of this folder check."""

from __future__ import annotations

import functools
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
STUBS = "clients/python/src/precall/v1/"
GENERATED = "by `make gen`. Do not edit."
BINARY = {".binpb", ".gif", ".png"}


@functools.cache
def tracked() -> tuple[str, ...]:
    """Returns the paths of the existing files that git tracks or that are new and not ignored."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listing = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return tuple(sorted(path for path in listing.split("\0") if path and (ROOT / path).is_file()))


def written(*suffixes: str) -> list[str]:
    """Returns the hand-written text files; with `suffixes`, only those that end in one of them."""
    return [
        path
        for path in tracked()
        if not path.startswith(STUBS)
        and Path(path).suffix not in BINARY
        and (not suffixes or path.endswith(suffixes))
        and not is_generated(path)
    ]


def is_generated(path: str) -> bool:
    """Returns whether a module's first lines say that it is generated, or a copy."""
    return path.endswith(".py") and any(GENERATED in line for line in text(path).splitlines()[:10])


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
