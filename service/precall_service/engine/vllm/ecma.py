"""Regular expressions in the dialect of JSON Schema, which is that of ECMA 262 with Unicode.

A parsed expression has sets of characters, anchors, repetitions and choices. What is not regular,
such as a lookahead, is refused by name.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, TypeAlias

DEPTH_MAX: Final = 64
"""The most groups inside one another."""
LAST: Final = 0x10FFFF
_DIGITS: Final = ((0x30, 0x39),)
_WORD: Final = ((0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A))
_SPACE: Final = (
    *((0x09, 0x0D), (0x20, 0x20), (0xA0, 0xA0), (0x1680, 0x1680), (0x2000, 0x200A)),
    *((0x2028, 0x2029), (0x202F, 0x202F), (0x205F, 0x205F), (0x3000, 0x3000), (0xFEFF, 0xFEFF)),
)
_LINE_ENDS: Final = ((0x0A, 0x0A), (0x0D, 0x0D), (0x2028, 0x2029))
SURROGATES: Final = (0xD800, 0xDFFF)
_CONTROLS: Final = {"t": 0x09, "n": 0x0A, "v": 0x0B, "f": 0x0C, "r": 0x0D, "0": 0x00}
Ranges: TypeAlias = tuple[tuple[int, int], ...]


class PatternError(ValueError):
    """A grammar cannot hold the pattern; the message says which part of it."""


@dataclass(frozen=True, slots=True)
class Chars:
    """One character of a set."""

    ranges: Ranges


@dataclass(frozen=True, slots=True)
class Anchor:
    """The beginning or the end of the text."""

    end: bool


@dataclass(frozen=True, slots=True)
class Repeat:
    """A part again and again; without a limit if `most` is None."""

    part: Node
    least: int
    most: int | None


@dataclass(frozen=True, slots=True)
class Choice:
    """One of several sequences."""

    options: tuple[tuple[Node, ...], ...]


Node: TypeAlias = "Chars | Anchor | Repeat | Choice"
ANY: Final = Chars(((0, LAST),))


class Parser:
    """Parses ECMA 262 with Unicode, as far as it is regular."""

    def __init__(self, pattern: str) -> None:
        self._text = pattern
        self._at = 0
        self._depth = 0
        self.loosened: list[str] = []

    def parsed(self) -> Choice:
        """Returns the whole expression.

        Raises:
            PatternError: it is malformed, or has a part that is not regular.
        """
        choice = self._choice()
        if self._at < len(self._text):
            raise PatternError(f"{self._text[self._at]!r} without a beginning")
        return choice

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _take(self, text: str) -> bool:
        found = self._text.startswith(text, self._at)
        self._at += len(text) * found
        return found

    def _next(self) -> str:
        if self._at == len(self._text):
            raise PatternError("its end, where more should follow")
        self._at += 1
        return self._text[self._at - 1]

    def _choice(self) -> Choice:
        options = [self._sequence()]
        while self._take("|"):
            options.append(self._sequence())
        return Choice(tuple(options))

    def _sequence(self) -> tuple[Node, ...]:
        parts: list[Node] = []
        while self._peek() not in ("", "|", ")"):
            parts.append(self._repeated(self._atom()))
        return tuple(parts)

    def _atom(self) -> Node:
        char = self._next()
        match char:
            case "^" | "$":
                return Anchor(end=char == "$")
            case ".":
                return Chars(without(_LINE_ENDS))
            case "(":
                return self._group()
            case "[":
                return Chars(self._class())
            case "\\":
                return Chars(self._escape(in_class=False))
            case "*" | "+" | "?":
                raise PatternError(f"{char!r} after nothing")
            case _:
                return _one(ord(char))

    def _group(self) -> Choice:
        if self._take("?"):
            if self._take("<") and self._peek() not in ("=", "!"):
                end = self._text.find(">", self._at)
                self._at = max(end, self._at) + 1
            elif not self._take(":"):
                raise PatternError("a lookahead, a lookbehind, or flags")
        self._depth += 1
        if self._depth > DEPTH_MAX:
            raise PatternError(f"groups more than {DEPTH_MAX} levels deep")
        choice = self._choice()
        self._depth -= 1
        if not self._take(")"):
            raise PatternError("a group without an end")
        return choice

    def _repeated(self, part: Node) -> Node:
        least, most = 1, None
        if self._take("*"):
            least = 0
        elif self._take("+"):
            pass
        elif self._take("?"):
            least, most = 0, 1
        elif self._peek() == "{":
            least, most = self._bounds()
        else:
            return part
        self._take("?")  # what is found lazily is found
        if has_anchor(part):
            raise PatternError("^ or $ within a repetition")
        return Repeat(part, least, most)

    def _bounds(self) -> tuple[int, int | None]:
        inner, closed, _ = self._text[self._at + 1 : self._at + 24].partition("}")
        least, comma, most = inner.partition(",")
        if not closed or not least.isdecimal() or not (most.isdecimal() or not most):
            raise PatternError("'{' that is no repetition")
        self._at += len(inner) + 2
        if not comma:
            return int(least), int(least)
        if most and int(most) < int(least):
            raise PatternError(f"the repetition {{{inner}}}")
        return int(least), int(most) if most else None

    def _class(self) -> Ranges:
        negated = self._take("^")
        ranges: list[tuple[int, int]] = []
        while not self._take("]"):
            first = self._class_item()
            if len(first) == 1 and first[0][0] == first[0][1] and self._is_range():
                self._take("-")
                last = self._class_item()
                if len(last) != 1 or last[0][0] != last[0][1] or last[0][0] < first[0][0]:
                    raise PatternError("a range of characters that runs backwards")
                first = ((first[0][0], last[0][0]),)
            ranges += first
        found = _merged(ranges)
        return without(found) if negated else found

    def _is_range(self) -> bool:
        return self._peek() == "-" and self._text[self._at + 1 : self._at + 2] not in ("]", "")

    def _class_item(self) -> Ranges:
        char = self._next()
        return self._escape(in_class=True) if char == "\\" else ((ord(char), ord(char)),)

    def _escape(self, *, in_class: bool) -> Ranges:
        char = self._next()
        match char:
            case "d" | "D" | "w" | "W" | "s" | "S":
                ranges = {"d": _DIGITS, "w": _WORD, "s": _SPACE}[char.lower()]
                return ranges if char.islower() else without(ranges)
            case "p" | "P":
                return self._property()
            case "b" if in_class:
                return ((0x08, 0x08),)
            case "b" | "B" | "k":
                raise PatternError(f"\\{char}")
            case "x":
                return self._code(2)
            case "u":
                return self._unicode()
            case "c":
                code = ord(self._next()) % 32
                return ((code, code),)
            case _ if char in _CONTROLS:
                return ((_CONTROLS[char], _CONTROLS[char]),)
            case _ if char.isdecimal():
                raise PatternError(f"\\{char}, which refers back")
            case _:
                return ((ord(char), ord(char)),)

    def _unicode(self) -> Ranges:
        if self._take("{"):
            code = self._code(self._text.find("}", self._at) - self._at)
            self._take("}")
            return code
        ((high, _),) = self._code(4)
        if 0xD800 <= high < 0xDC00 and self._take("\\u"):
            ((low, _),) = self._code(4)
            high = 0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00)
        return ((high, high),)

    def _code(self, length: int) -> Ranges:
        digits = self._text[self._at : self._at + length]
        try:
            code = int(digits, 16)
        except ValueError:
            raise PatternError(f"\\u or \\x with {digits!r}") from None
        if len(digits) < length or code > LAST:
            raise PatternError(f"\\u or \\x with {digits!r}")
        self._at += length
        return ((code, code),)

    def _property(self) -> Ranges:
        """A class of Unicode. A grammar with its thousand ranges is slow, so any character fits."""
        name, closed, _ = self._text[self._at :].partition("}")
        if not name.startswith("{") or not closed:
            raise PatternError("\\p without a name")
        self._at += len(name) + 1
        self.loosened.append(f"\\p{name}}} is held to any character")
        return ANY.ranges


def _one(code: int) -> Chars:
    return Chars(((code, code),))


def _merged(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """Returns the same characters, in order and without overlaps."""
    found: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if found and first <= found[-1][1] + 1:
            found[-1] = found[-1][0], max(last, found[-1][1])
        else:
            found.append((first, last))
    return tuple(found)


def without(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """Returns all other characters."""
    found: list[tuple[int, int]] = []
    start = 0
    for first, last in _merged(ranges):
        if first > start:
            found.append((start, first - 1))
        start = last + 1
    if start <= LAST:
        found.append((start, LAST))
    return tuple(found)


def has_anchor(node: Node) -> bool:
    """Whether there is an anchor anywhere in a node."""
    match node:
        case Anchor():
            return True
        case Repeat(part):
            return has_anchor(part)
        case Choice(options):
            return any(has_anchor(part) for option in options for part in option)
        case Chars():
            return False
