"""What our own readers of calls have in common: what they read from a message, and how.

Never: knows a format, or vLLM.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeAlias


@dataclass(frozen=True, slots=True)
class Text:
    """Text outside of calls."""

    text: str


@dataclass(frozen=True, slots=True)
class Begun:
    """A call has begun. `written_id` is empty if the model wrote no id before its arguments."""

    name: str
    written_id: str = ""


@dataclass(frozen=True, slots=True)
class Arguments:
    """More of the arguments of the call that was begun last."""

    fragment: str


@dataclass(frozen=True, slots=True)
class Refused:
    """The call that was begun last cannot be read; `problem` says why, and what to do."""

    problem: str


Read: TypeAlias = Text | Begun | Arguments | Refused


class CallReader(Protocol):
    """Reads one message, piece by piece, and looks at each character a fixed number of times.

    Attributes:
        lost: Whether there was markup that became no call.
        read: How many characters were looked at.
    """

    lost: bool
    read: int

    @property
    def inside(self) -> bool:
        """Whether the message so far ends inside a call."""
        ...

    def feed(self, text: str) -> Iterator[Read]:
        """What the next piece of the message completes."""
        ...

    def end(self) -> Iterator[Read]:
        """What was held back until it was certain that the message has ended."""
        ...


def overlap(text: str, mark: str) -> int:
    """How many characters at the end of a text may be the beginning of the mark."""
    for length in range(min(len(mark) - 1, len(text)), 0, -1):
        if text.endswith(mark[:length]):
            return length
    return 0


def any_of(marks: Iterable[str]) -> re.Pattern[str]:
    """Returns a pattern that finds all marks in one reading. Of two in one place, the lesser one.

    To look for each mark by itself would read the rest of a text again wherever one is found.
    """
    return re.compile("|".join(map(re.escape, sorted(marks))) or r"(?!)")


def first_of(marks: re.Pattern[str], text: str, position: int) -> tuple[int, str]:
    """Returns where the next mark is, and which one; a negative position if there is none."""
    found = marks.search(text, position)
    return (-1, "") if found is None else (found.start(), found[0])
