# Copied from service/precall_service/tools/pattern_costs.py by `make gen`. Do not edit.
"""Estimates what a regular expression costs, before it is compiled.

A few characters can stand for many states: `.{1000}` is a thousand times what `.` is. Compiling
takes time and memory in proportion to the states, and so does each character of a text, at worst.

Never: compiles a pattern, or judges whether it is valid.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

PATTERN_SIZE_MAX: Final = 1 << 20
"""The most bytes of a compiled pattern as its library counts them. It refuses larger ones."""
CACHE_BYTES_MAX: Final = 32 << 10
"""The most memory for states that are made while a text is read, for each direction of reading."""

_STATE_BYTES: Final = 128
_BASE_BYTES: Final = (32 << 10) + 2 * CACHE_BYTES_MAX
_STATES_BYTES_MAX: Final = 3 << 19
"""What all automata of a pattern of PATTERN_SIZE_MAX take."""

_CLASS: Final = 4
_WIDE: Final = 20
"""Many characters of UTF-8, as in `.` or `[^a]`: several states for each length of a character."""
_OTHERS: Final = 32
"""All characters but some, as in `\\W`."""
_WIDE_RANGE: Final = 8
_PROPERTY: Final = 6000
"""A class of Unicode, such as `\\p{L}`: hundreds of ranges."""
_FOLDING: Final = 4
"""How many times as much a pattern is that ignores case."""
_TIMES_MAX: Final = 1 << 20

_ESCAPES: Final = {"d": _CLASS, "w": _CLASS, "s": _WIDE, "D": _OTHERS, "W": _OTHERS, "S": _OTHERS}
_BOUND: Final = re.compile(r"\{(\d{1,7})(,(\d{0,7}))?\}")
_GROUP: Final = re.compile(r"\(\?(?:[:=!>]|<[=!]|P?<\w*>|[a-zA-Z-]*[:)])")
_PROPERTY_NAME: Final = re.compile(r"\{[^}]*\}")


@dataclass(frozen=True, slots=True)
class PatternCost:
    """An upper bound of the states of a pattern.

    `looks` says that it looks around or back: a text may then be read again at each character.
    """

    states: int
    looks: bool

    @property
    def compiled_bytes(self) -> int:
        """The memory of the states once the pattern is compiled, which takes 3 ns for each byte."""
        return min(self.states * _STATE_BYTES, _STATES_BYTES_MAX)

    @property
    def held_bytes(self) -> int:
        """All the memory that the pattern takes as long as it is kept."""
        return self.compiled_bytes + _BASE_BYTES


def pattern_cost(pattern: str) -> PatternCost:
    """Returns the cost of a pattern. One that is not valid has some cost, too."""
    return _Estimate(pattern).cost()


class _Estimate:
    def __init__(self, pattern: str) -> None:
        self._text = pattern
        self._at = 0
        self._looks = False
        self._folds = False
        self._open: list[int] = []
        """What the groups around the current one have so far."""
        self._sum = 0
        self._last = 0
        """The states of what a quantifier would repeat."""

    def cost(self) -> PatternCost:
        while self._at < len(self._text):
            self._step(self._text[self._at])
        while self._open:  # groups that are not closed
            self._close()
        total = self._sum + self._last + 2
        return PatternCost(total * _FOLDING if self._folds else total, self._looks)

    def _step(self, char: str) -> None:
        self._at += 1
        match char:
            case "\\":
                self._atom(self._escape())
            case "[":
                self._atom(self._class())
            case "(":
                self._group()
            case ")" if self._open:
                self._close()
            case "|":
                self._atom(2)
                self._atom(0)
            case "*" | "+" | "?":
                self._last += 2
            case "{" if bound := _BOUND.match(self._text, self._at - 1):
                self._at = bound.end()
                least, most = int(bound[1]), int(bound[3] or 0)
                self._last = (self._last + 1) * min(max(least + 1, most), _TIMES_MAX)
            case _:
                self._atom(_WIDE if char == "." else 1 if char.isascii() else _CLASS)

    def _atom(self, states: int) -> None:
        self._sum += self._last
        self._last = states

    def _group(self) -> None:
        if found := _GROUP.match(self._text, self._at - 1):
            mark = found[0]
            self._looks = self._looks or mark in {"(?=", "(?!", "(?<=", "(?<!", "(?>"}
            self._folds = self._folds or (mark[2:3].isalpha() and "i" in mark)
            self._at = found.end()
            if mark.endswith(")"):
                return
        self._open.append(self._sum + self._last)
        self._sum = self._last = 0

    def _close(self) -> None:
        inner = self._sum + self._last + 2
        self._sum, self._last = self._open.pop(), inner

    def _escape(self) -> int:
        char = self._text[self._at : self._at + 1]
        self._at += 1
        if char in {"p", "P"}:
            if found := _PROPERTY_NAME.match(self._text, self._at):
                self._at = found.end()
            return _PROPERTY
        if char == "k" or char in "123456789":
            self._looks = True
        return _ESCAPES.get(char, _CLASS)

    def _class(self) -> int:
        """Returns the states of a class of characters, whose opening bracket was read."""
        states = _CLASS
        if self._text.startswith("^", self._at):
            states = _WIDE
            self._at += 1
        while self._at < len(self._text):
            char = self._text[self._at]
            self._at += 1
            if char == "]":
                break
            if char == "\\":
                coded = self._text[self._at : self._at + 1] in {"u", "x", "U"}
                states += _WIDE if coded else self._escape()
            else:
                states += 1 if char.isascii() else _WIDE_RANGE
        return states
