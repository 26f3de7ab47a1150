"""Reads calls that a model writes as JSON between marks, such as `<tool_call>{...}</tool_call>`.

The end of a call is the end of its JSON object, which JSON alone decides. A mark that is part of a
string, as in code that an agent writes, ends nothing. Each character is read once.

Owns: what a form of calls may differ in. Never: checks arguments, or knows vLLM.
"""

from __future__ import annotations

import enum
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from precall_service.engine.vllm.call_reader import (
    Arguments,
    Begun,
    Read,
    Text,
    any_of,
    first_of,
    overlap,
)
from precall_service.engine.vllm.json_scan import BLANKS, ValueEnd

_ARGUMENTS: Final = ("arguments", "parameters")
_SEPARATORS: Final = f"{BLANKS},;"
_BARE: Final = ("{", '{"name"')
"""How a call without a mark begins: first thing in a message, and after text."""
_HEAD_MAX: Final = 512
"""More characters than this between a start mark and its object make the mark text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JsonForm:
    """How a family of models writes calls.

    Attributes:
        starts: The marks that begin calls, in their spellings.
        head: What stands between such a mark and the object. If it has the group `name`, the object
            is the arguments of that tool. If not, the object has the name, too. A group `id` is
            the id that the model gave the call.
        head_part: What the beginning of a head looks like. Other text makes the mark text.
        end: What follows on a call that is an object of its own.
        around: Marks that stand around all calls.
        dropped: Other marks that are no text.
        several: Whether more objects may follow on the first one, each of them a call.
        names_are_keys: Whether the object is `{"name": {...}}`.
        bare: Whether an object without a mark may be a call. It is one if it turns out to have a
            name and arguments.
    """

    starts: tuple[str, ...]
    head: re.Pattern[str]
    head_part: re.Pattern[str]
    end: str = ""
    around: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    several: bool = False
    names_are_keys: bool = False
    bare: bool = False


_Reads: TypeAlias = "tuple[int, Sequence[Read]]"
"""The next position in a piece of text, and what was read up to it."""


class _State(enum.Enum):
    TEXT = enum.auto()
    OPENED = enum.auto()  # at a start mark, before the object
    KEY = enum.auto()
    COLON = enum.auto()
    VALUE = enum.auto()
    INSIDE_KEY = enum.auto()
    INSIDE_VALUE = enum.auto()
    BROKEN = enum.auto()  # the object is no JSON; up to the end mark
    CLOSED = enum.auto()  # after the object


class JsonCallReader:
    """Reads one message. Text after a call is dropped: no template has a place for it."""

    def __init__(self, form: JsonForm) -> None:
        self._form = form
        self._marks = (*form.starts, *form.around, *form.dropped, *(_BARE[1:] if form.bare else ()))
        self._any_mark = any_of(self._marks)
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
        self._has_arguments = False
        self._only_arguments = False
        """Whether the object is the arguments: its name stood before it."""
        self._undecided: list[str] | None = None
        """An object without a mark, as long as it may be text; None if there is none."""
        self._silent = True
        """Whether the message has had nothing but blanks so far."""
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
            if (undecided := self._undecided) is not None:
                undecided.append(text[before:position])
            yield from reads
            if position == before and self._state is state:
                self._held = text[position:]
                return
            if self._state is _State.TEXT and (taken_back := self._taken_back()):
                yield taken_back

    def end(self) -> Iterator[Read]:
        """What was held back of an object that has not become a call when the message ends."""
        if self._undecided is not None:
            self._state = _State.TEXT
            if (taken_back := self._taken_back()) is not None:
                yield taken_back

    def _taken_back(self) -> Text | None:
        """The text of an object that was no call after all."""
        said, self._undecided = "".join(self._undecided or ()), None
        self._silent = self._silent and not said
        return Text(said) if said and not self._called else None

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
                return self._between(text, position)

    def _text(self, text: str, position: int) -> _Reads:
        at, mark = self._next_mark(text, position)
        held = max(overlap(text, each) for each in self._marks)
        end = max(len(text) - held, position) if at < 0 else at
        if end > position:
            return end, self._outside(text[position:end])
        if at < 0:
            return position, ()
        if mark in self._form.starts:
            self._state = _State.OPENED
            return position, ()
        if mark not in _BARE:
            self.lost = self.lost or mark in self._form.around  # unless calls follow
            return at + len(mark), ()
        self._open()
        self._undecided = []
        return at + 1, ()

    def _next_mark(self, text: str, position: int) -> tuple[int, str]:
        """Where the next mark is, and which one; a negative position if there is none."""
        if self._form.bare and self._silent:
            start = _skip(text, position, BLANKS)
            if text.startswith(_BARE[0], start):
                return start, _BARE[0]
        return first_of(self._any_mark, text, position)

    def _opened(self, text: str, position: int) -> _Reads:
        """The text from `position` on begins with a start mark."""
        mark = max((each for each in self._form.starts if text.startswith(each, position)), key=len)
        start = position + len(mark)
        object_at = text.find("{", start)
        head_end = len(text) if object_at < 0 else object_at
        if object_at >= 0 and (head := self._form.head.fullmatch(text, start, object_at)):
            found = head.groupdict()
            name = found.get("name") or ""
            self._open(name)
            if name:
                return object_at, (Begun(name, found.get("id") or ""),)
            return object_at + 1, ()
        begun = self._form.head_part.fullmatch(text, start, head_end)
        if object_at < 0 and begun and head_end <= start + _HEAD_MAX:
            return position, ()
        self._state = _State.TEXT  # markup that is no call is text
        return start, self._outside(mark)

    def _open(self, name: str = "") -> None:
        """Begins an object: the arguments of the tool with this name, or a call if it is empty."""
        self._name, self._early = name, []
        self._only_arguments = self._has_arguments = bool(name)
        if name:
            self._state, self._value, self._called = _State.INSIDE_VALUE, ValueEnd(), True
            self._key, self._quoted = _ARGUMENTS[0], False
        else:
            self._state = _State.KEY

    def _outside(self, text: str) -> Sequence[Read]:
        self._silent = self._silent and not text.strip()
        return () if self._called else (Text(text),)

    def _between(self, text: str, position: int) -> _Reads:
        position = _skip(text, position, BLANKS + ("," if self._state is _State.KEY else ""))
        if position == len(text):
            return position, ()
        mark = text[position]
        match self._state, mark:
            case _State.VALUE, _:
                self._state, self._value = _State.INSIDE_VALUE, ValueEnd()
                self._quoted = mark == '"'
                return position, ()
            case _State.KEY, '"':
                self._state, self._value = _State.INSIDE_KEY, ValueEnd()
                return position, ()
            case _State.COLON, ":":
                self._state = _State.VALUE
            case _State.KEY, "}":
                return position + 1, self._ended()
            case _:
                self._state = _State.BROKEN
                self.lost = self.lost or not (self._name or self._undecided is not None)
                return position, ()
        return position + 1, ()

    def _ended(self) -> Sequence[Read]:
        """The object has ended; a call without arguments has none."""
        if self._undecided is not None:
            self._state = _State.TEXT
            return ()
        self._state = _State.CLOSED
        self.lost = self.lost or not self._name
        return (Arguments("{}"),) if self._name and not self._has_arguments else ()

    def _inside(self, text: str, position: int) -> _Reads:
        end = self._value.feed(text, position)
        part = text[position:end]
        after = len(text) if end is None else end
        if self._state is _State.INSIDE_KEY:
            self._parts.append(part)
            return after, () if end is None else self._key_read()
        if end is not None:
            self._state = _State.CLOSED if self._only_arguments else _State.KEY
        if self._key in _ARGUMENTS:
            return after, self._arguments_read(part, ended=end is not None)
        if self._key == "name":
            self._parts.append(part)
            if end is not None:
                return after, self._named(self._decoded())
        return after, ()

    def _key_read(self) -> Sequence[Read]:
        self._key, self._state = self._decoded(), _State.COLON
        if not self._form.names_are_keys:
            return ()
        name, self._key, self._name = self._key, _ARGUMENTS[0], ""
        return self._named(name)

    def _arguments_read(self, part: str, *, ended: bool) -> Sequence[Read]:
        self._has_arguments = True
        if self._quoted:  # some models write the object as a text
            self._parts.append(part)
            part = self._decoded() if ended else ""
        if not self._name:
            self._early.append(part)
            return ()
        begun = () if self._undecided is None else self._begin()
        return (*begun, Arguments(part)) if part else begun

    def _named(self, name: str) -> Sequence[Read]:
        if not name or self._name:
            return ()
        self._name, early = name, "".join(self._early)
        if self._undecided is not None and not self._has_arguments:
            return ()
        return (*self._begin(), Arguments(early)) if early else self._begin()

    def _begin(self) -> Sequence[Read]:
        self._called, self._undecided = True, None
        return (Begun(self._name),)

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
        end = text.find(self._form.end, position)
        if end < 0:
            return len(text) - overlap(text, self._form.end), ()
        self._state = _State.TEXT
        return end + len(self._form.end), ()

    def _closed(self, text: str, position: int) -> _Reads:
        if self._form.several and not self._only_arguments:
            return self._after_one_of_several(text, position)
        end, at = self._form.end, _skip(text, position, BLANKS)
        if text.startswith(end, at):
            at += len(end)
        elif end.startswith(text[at:]):
            return at, ()  # blanks are dropped; the beginning of the mark is held
        self._state = _State.TEXT
        return at, ()

    def _after_one_of_several(self, text: str, position: int) -> _Reads:
        at = _skip(text, position, _SEPARATORS)
        if text.startswith("{", at):
            self._open()
            return at + 1, ()
        if at < len(text):
            self._state = _State.TEXT
            at += text[at] == "]"
        return at, ()


def _skip(text: str, position: int, characters: str) -> int:
    while position < len(text) and text[position] in characters:
        position += 1
    return position
