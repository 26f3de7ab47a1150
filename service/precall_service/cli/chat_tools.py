"""The tools of `precall chat`: the time, dice, and the files in one folder.

Never: a write, or a read outside that folder. The model is told why a tool refuses.
"""

from __future__ import annotations

import datetime
import random
import zoneinfo
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Final

from pydantic import Field

_ENTRIES_MAX: Final = 200
_READ_BYTES_MAX: Final = 16 << 10


def current_time(
    timezone: Annotated[
        str, Field(max_length=60, description="IANA name, such as Europe/Paris")
    ] = "UTC",
) -> str:
    """Get the current date and time in a time zone."""
    try:
        zone = zoneinfo.ZoneInfo(timezone)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f"there is no time zone {timezone!r}: use Europe/Paris, or UTC") from None
    return f"{datetime.datetime.now(zone):%A %Y-%m-%d %H:%M:%S %Z}"


def roll_dice(
    sides: Annotated[int, Field(ge=2, le=1000, description="Sides of each die")] = 6,
    count: Annotated[int, Field(ge=1, le=100, description="How many dice")] = 1,
) -> list[int]:
    """Roll dice and return the number on each."""
    return [random.randint(1, sides) for _ in range(count)]  # noqa: S311 - a game


class Folder:
    """Reads the files in one folder and its subfolders."""

    def __init__(self, root: Path) -> None:
        self._root = root.resolve()

    def list_files(
        self,
        path: Annotated[
            str, Field(max_length=200, description="A folder; . is the working directory")
        ] = ".",
    ) -> list[str]:
        """List the files in a folder of the working directory. Folders end with a slash."""
        folder = self._inside(path)
        if not folder.is_dir():
            raise ValueError(f"{path} is not a folder")
        names = sorted(
            f"{entry.name}/" if entry.is_dir() else entry.name for entry in folder.iterdir()
        )
        more = len(names) - _ENTRIES_MAX
        return [*names[:_ENTRIES_MAX], f"(and {more} more)"] if more > 0 else names

    def read_file(
        self,
        path: Annotated[
            str, Field(max_length=200, description="A file below the working directory")
        ],
    ) -> str:
        """Read the beginning of a text file in the working directory."""
        file = self._inside(path)
        if not file.is_file():
            raise ValueError(f"there is no file {path}")
        with file.open("rb") as stream:
            content = stream.read(_READ_BYTES_MAX)
        if b"\0" in content:
            raise ValueError(f"{path} is not a text file")
        text = content.decode("utf-8", errors="replace")
        size = file.stat().st_size
        return text if size <= _READ_BYTES_MAX else f"{text}\n(cut: the file has {size:,} bytes)"

    def _inside(self, path: str) -> Path:
        """Returns the path with every link resolved, which keeps links from leaving the root."""
        resolved = (self._root / path).resolve()
        if not resolved.is_relative_to(self._root):
            raise ValueError(f"{path} is outside of the working directory")
        return resolved


def chat_tools(root: Path) -> tuple[Callable[..., object], ...]:
    """Returns every tool of the chat; `root` is the folder that they may read."""
    folder = Folder(root)
    return (current_time, roll_dice, folder.list_files, folder.read_file)
