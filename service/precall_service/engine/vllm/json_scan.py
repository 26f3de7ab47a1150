"""Finds where a JSON value ends, piece by piece, so that no character is read twice.

Never: checks the value. A text of balanced brackets that is no JSON has an end, too.
"""

from __future__ import annotations

import re
from typing import Final

_OUTSIDE: Final = re.compile(r'["{}\[\]]')
_IN_STRING: Final = re.compile(r'["\\]')
_SCALAR_END: Final = re.compile(r"[\s,}\]]")
BLANKS: Final = " \t\r\n"


class ValueEnd:
    """The end of one JSON value. The first character that it is given must begin the value."""

    def __init__(self) -> None:
        self.read = 0
        """How many characters were looked at."""
        self._begun = False
        self._scalar = False
        self._in_string = False
        self._escaped = False
        self._depth = 0

    def feed(self, text: str, start: int = 0) -> int | None:
        """The position in `text` after the value, which goes on at `start`; None if it goes on."""
        end = self._end(text, start)
        self.read += (len(text) if end is None else end) - start
        return end

    def _end(self, text: str, position: int) -> int | None:
        if not self._begun and position < len(text):
            self._begun = True
            self._scalar = text[position] not in '"{['
        if self._scalar:
            found = _SCALAR_END.search(text, position)
            return None if found is None else found.start()
        while position < len(text):
            if self._escaped:
                self._escaped = False
                position += 1
                continue
            found = (_IN_STRING if self._in_string else _OUTSIDE).search(text, position)
            if found is None:
                return None
            position = found.end()
            self._take(found[0])
            if not self._in_string and not self._depth:
                return position
        return None

    def _take(self, mark: str) -> None:
        if self._in_string:
            self._escaped = mark == "\\"
            self._in_string = self._escaped
        elif mark == '"':
            self._in_string = True
        else:
            self._depth += 1 if mark in "{[" else -1


class ObjectEnd:
    """The end of the JSON object that a text begins with, after blanks."""

    def __init__(self) -> None:
        self._value: ValueEnd | None = None
        self._broken = False

    @property
    def read(self) -> int:
        """How many characters of the object were looked at."""
        return 0 if self._value is None else self._value.read

    def feed(self, text: str) -> int | None:
        """The position after the object; None if it goes on, or if the text begins with none."""
        start = 0
        if self._value is None:
            start = len(text) - len(text.lstrip(BLANKS))
            if self._broken or start == len(text):
                return None
            if text[start] != "{":
                self._broken = True
                return None
            self._value = ValueEnd()
        return self._value.feed(text, start)
