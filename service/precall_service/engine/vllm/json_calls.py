"""Reads calls that a model writes as JSON between marks, such as `<tool_call>{...}</tool_call>`.

The end of a call is the end of its JSON object, which JSON alone decides. A mark that is part of a
string, as in code that an agent writes, ends nothing. Each character is read once.

Never: checks arguments, or knows vLLM.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from precall_service.engine.vllm.json_scan import BLANKS, ValueEnd

_ARGUMENTS: Final = ("arguments", "parameters")
_BLANKS_MAX: Final = 256
"""More blanks than this after a start mark make it text."""


@dataclass(frozen=True, slots=True)
class Marks:
    """The marks before a call, in their spellings, and the mark after it.

    Without a mark after it, a call may stand in an array of calls, whose bracket ends them.
    """

    starts: tuple[str, ...]
    end: str


@dataclass(frozen=True, slots=True)
class Text:
    """Text outside of calls."""

    text: str


@dataclass(frozen=True, slots=True)
class Begun:
    """A call has begun."""

    name: str


@dataclass(frozen=True, slots=True)
class Arguments:
    """More of the arguments of the call that was begun last."""

    fragment: str


Read: TypeAlias = Text | Begun | Arguments


_Reads: TypeAlias = "tuple[int, Sequence[Read]]"
"""The next position in a piece of text, and what was read up to it."""


class _State(enum.Enum):
    TEXT = enum.auto()
    OPENED = enum.auto()  # after the start mark, before the object
    KEY = enum.auto()
    COLON = enum.auto()
    VALUE = enum.auto()
    INSIDE_KEY = enum.auto()
    INSIDE_VALUE = enum.auto()
    BROKEN = enum.auto()  # the object is no JSON; up to the end mark
    CLOSED = enum.auto()  # after the object, before the end mark


class JsonCallReader:
    """Reads one message. Text after a call is dropped: no template has a place for it."""

    def __init__(self, marks: Marks) -> None:
        self._marks = marks
        self._state = _State.TEXT
        self._held = ""
        """Text that may be the beginning of a mark, or is one."""
        self._value = ValueEnd()
        self._parts: list[str] = []
        self._key = ""
        self._name = ""
        self._quoted = False
        self._early: list[str] = []
        """Arguments that stand before the name."""
        self._in_array = False
        self._called = False
        self.lost = False
        """Whether there was markup that became no call."""
        self.read = 0
        """How many characters were looked at."""

    @property
    def inside(self) -> bool:
        """Whether the message so far ends inside a call."""
        return self._state not in {_State.TEXT, _State.CLOSED}

    def feed(self, text: str) -> Iterator[Read]:
        """What the next piece of the message completes."""
        if self._state in {_State.TEXT, _State.OPENED, _State.BROKEN, _State.CLOSED}:
            text, self._held = self._held + text, ""
        position = 0
        while position < len(text):
            before, state = position, self._state
            position, reads = self._step(text, position)
            self.read += position - before
            yield from reads
            if position == before and self._state is state:
                self._held = text[position:]
                return

    def _step(self, text: str, position: int) -> _Reads:
        """Reads on from a position; returns the next one. It stands still until more text comes."""
        match self._state:
            case _State.TEXT:
                return self._text(text, position)
            case _State.OPENED:
                return self._opened(text, position)
            case _State.BROKEN:
                return self._broken(text, position)
            case _State.CLOSED:
                return self._closed(text, position)
            case _State.INSIDE_KEY | _State.INSIDE_VALUE:
                return self._inside(text, position)
            case _State.KEY | _State.COLON | _State.VALUE:
                return self._between(text, position), ()

    def _text(self, text: str, position: int) -> _Reads:
        starts = self._marks.starts
        found = min((at for mark in starts if (at := text.find(mark, position)) >= 0), default=-1)
        held = max(overlap(text, mark) for mark in starts)
        end = max(len(text) - held, position) if found < 0 else found
        if end > position:
            said = text[position:end]
            return end, self._outside(said)
        if found == position:
            self._state = _State.OPENED
        return position, ()

    def _opened(self, text: str, position: int) -> _Reads:
        """The text from `position` on begins with the start mark."""
        mark = next(mark for mark in self._marks.starts if text.startswith(mark, position))
        object_at = _skip(text, position + len(mark), BLANKS)
        if object_at == len(text) <= position + _BLANKS_MAX:
            return position, ()
        if text.startswith("{", object_at):
            self._open(in_array=False)
            return object_at + 1, ()
        if text.startswith("[", object_at) and not self._marks.end:
            self._state, self._in_array = _State.CLOSED, True
            return object_at + 1, ()
        self._state = _State.TEXT  # markup that is no call is text
        return object_at, self._outside(text[position:object_at])

    def _open(self, *, in_array: bool) -> None:
        self._state, self._in_array = _State.KEY, in_array
        self._name, self._early = "", []

    def _outside(self, text: str) -> Sequence[Read]:
        return () if self._called else (Text(text),)

    def _between(self, text: str, position: int) -> int:
        position = _skip(text, position, BLANKS + ("," if self._state is _State.KEY else ""))
        if position == len(text):
            return position
        mark = text[position]
        if self._state is _State.VALUE:
            self._state, self._value = _State.INSIDE_VALUE, ValueEnd()
            self._quoted = mark == '"'
            return position
        if self._state is _State.KEY and mark == '"':
            self._state, self._value = _State.INSIDE_KEY, ValueEnd()
            return position
        if self._state is _State.COLON and mark == ":":
            self._state = _State.VALUE
        elif self._state is _State.KEY and mark == "}":
            self._state = _State.CLOSED
            self.lost = self.lost or not self._name
        else:
            self._state = _State.BROKEN
            self.lost = self.lost or not self._name
            return position
        return position + 1

    def _inside(self, text: str, position: int) -> _Reads:
        end = self._value.feed(text, position)
        part = text[position:end]
        after = len(text) if end is None else end
        if self._state is _State.INSIDE_KEY:
            self._parts.append(part)
            if end is not None:
                self._key, self._state = self._decoded(), _State.COLON
            return after, ()
        if end is not None:
            self._state = _State.KEY
        if self._key in _ARGUMENTS:
            if self._quoted:  # some models write the object as a text
                self._parts.append(part)
                part = "" if end is None else self._decoded()
            if self._name:
                return after, (Arguments(part),) if part else ()
            self._early.append(part)
        elif self._key == "name":
            self._parts.append(part)
            if end is not None and (name := self._decoded()) and not self._name:
                self._name, self._called = name, True
                early = "".join(self._early)
                return after, (Begun(name), Arguments(early)) if early else (Begun(name),)
        return after, ()

    def _decoded(self) -> str:
        """The string that was collected; empty if it is none."""
        text = "".join(self._parts)
        self._parts.clear()
        try:
            value = json.loads(text)
        except ValueError:
            return ""
        return value if isinstance(value, str) else ""

    def _broken(self, text: str, position: int) -> _Reads:
        end = text.find(self._marks.end, position)
        if end < 0:
            return len(text) - overlap(text, self._marks.end), ()
        self._state = _State.TEXT
        return end + len(self._marks.end), ()

    def _closed(self, text: str, position: int) -> _Reads:
        if self._in_array:
            at = _skip(text, position, f"{BLANKS},")
            if text.startswith("{", at):
                self._open(in_array=True)
                return at + 1, ()
            if at < len(text):
                self._state = _State.TEXT
                at += text[at] == "]"
            return at, ()
        end, at = self._marks.end, _skip(text, position, BLANKS)
        if text.startswith(end, at):
            at += len(end)
        elif end.startswith(text[at:]):
            return at, ()  # blanks are dropped; the beginning of the mark is held
        self._state = _State.TEXT
        return at, ()


def overlap(text: str, mark: str) -> int:
    """How many characters at the end of a text may be the beginning of the mark."""
    for length in range(min(len(mark) - 1, len(text)), 0, -1):
        if text.endswith(mark[:length]):
            return length
    return 0


def _skip(text: str, position: int, characters: str) -> int:
    while position < len(text) and text[position] in characters:
        position += 1
    return position
