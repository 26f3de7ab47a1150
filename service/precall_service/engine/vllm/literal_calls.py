"""Reads calls whose arguments are literals, such as `[get_weather(city='Paris', days=2)]`.

A call ends at its closing bracket, which strings cannot hide. If strings of the form have no
escapes, one that holds its own mark cannot be told from several, and the call is refused.

Owns: what a form of such calls may differ in. Never: reads the arguments, or knows vLLM.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from precall_service.engine.vllm.call_reader import (
    Arguments,
    Begun,
    Read,
    Refused,
    Text,
    any_of,
    first_of,
    overlap,
)
from precall_service.engine.vllm.literals import Syntax, as_json

_HEAD_MAX: Final = 512
"""More characters than this before the first bracket of a call make its mark text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LiteralForm:
    """How a family of models writes calls.

    Attributes:
        starts: The marks that begin calls.
        first: What stands from such a mark to the arguments of the first call; the group `name` is
            the name of the tool.
        first_part: What the beginning of that looks like. Other text makes the mark text.
        following: The same for another call directly after the last one; None if each has a mark.
        following_part: What the beginning of that looks like.
        bare: What a list of calls looks like that begins a message without a mark; None if there
            are none. `first_part` fits its beginning.
        syntax: How the arguments are written.
        end: What must follow on a call, since its strings have no escapes; empty if they have.
        dropped: Other marks that are no text.
    """

    starts: tuple[str, ...]
    first: re.Pattern[str]
    first_part: re.Pattern[str]
    syntax: Syntax
    following: re.Pattern[str] | None = None
    following_part: re.Pattern[str] = re.compile("")
    bare: re.Pattern[str] | None = None
    end: str = ""
    dropped: tuple[str, ...] = ()


_Reads: TypeAlias = "tuple[int, Sequence[Read]]"


class _State(enum.Enum):
    TEXT = enum.auto()
    OPENED = enum.auto()  # at a start mark, before a call
    INSIDE = enum.auto()
    AFTER = enum.auto()  # after a call, before another one


class LiteralCallReader:
    """Reads one message. Text after a call is dropped: no template has a place for it."""

    def __init__(self, form: LiteralForm) -> None:
        self._form = form
        self._marks = (*form.starts, *form.dropped)
        self._any_mark = any_of(self._marks)
        self._state = _State.TEXT
        self._held: str = ""
        """Text that may be the beginning of a mark or of a call, or is one."""
        self._brackets = _Brackets(form.syntax)
        self._parts: list[str] = []
        self._unjudged: Read | None = None
        """What was read of the last call, until it is certain that it has ended where it seemed."""
        self._rest: list[str] = []
        """The text since then."""
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
        return self._state in {_State.OPENED, _State.INSIDE}

    def feed(self, text: str) -> Iterator[Read]:
        """What the next piece of the message completes."""
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

    def end(self) -> Iterator[Read]:
        """The text that could have become a call, and the last call."""
        if self._state is _State.TEXT:
            said, self._held = self._held, ""
            yield from self._outside(said)
        yield from self._judged()

    def _step(self, text: str, position: int) -> _Reads:
        match self._state:
            case _State.TEXT:
                return self._text(text, position)
            case _State.OPENED:
                return self._opened(text, position)
            case _State.INSIDE:
                return self._inside(text, position)
            case _State.AFTER:
                return self._after(text, position)

    def _text(self, text: str, position: int) -> _Reads:
        start = position
        if self._silent and self._form.bare:
            start = len(text) - len(text[position:].lstrip())
            if found := self._form.bare.match(text, start):
                return found.end(), self._begin(found["name"])
            short = start < len(text) <= start + _HEAD_MAX
            if short and self._form.first_part.fullmatch(text, start):
                return position, ()
        at, mark = first_of(self._any_mark, text, position)
        held = max(overlap(text, each) for each in self._marks)
        end = max(len(text) - held, position) if at < 0 else at
        if end > position:
            return end, self._outside(text[position:end])
        if at < 0:
            return position, ()
        if mark not in self._form.starts:
            self._rest.append(mark)
            return at + len(mark), ()
        self._state = _State.OPENED
        return position, ()

    def _opened(self, text: str, position: int) -> _Reads:
        """The text from `position` on begins with a start mark."""
        mark = next(mark for mark in self._form.starts if text.startswith(mark, position))
        start = position + len(mark)
        if found := self._form.first.match(text, start):
            return found.end(), (*self._judged(), *self._begin(found["name"]))
        if self._form.first_part.fullmatch(text, start) and len(text) <= start + _HEAD_MAX:
            return position, ()
        self._state, self.lost = _State.TEXT, True
        return start, self._outside(mark)  # markup that is no call is text

    def _begin(self, name: str) -> Sequence[Read]:
        self._state, self._called = _State.INSIDE, True
        self._brackets = _Brackets(self._form.syntax)
        return (Begun(name),)

    def _inside(self, text: str, position: int) -> _Reads:
        limit = len(text) - max(overlap(text, quote) for quote in self._form.syntax.quotes)
        end = self._brackets.closed_at(text, position, limit)
        self._parts.append(text[position : max(limit, position) if end is None else end])
        if end is None:
            return max(limit, position), ()
        self._state, written = _State.AFTER, "".join(self._parts)
        self._parts.clear()
        read = self._arguments(written)
        if not self._form.end:
            return end + 1, (read,)
        self._unjudged = read
        self._rest.clear()
        return end + 1, ()

    def _arguments(self, written: str) -> Read:
        try:
            return Arguments(as_json(self._form.syntax, written))
        except RecursionError:
            return Refused("the arguments are nested too deeply: write them with less nesting")
        except ValueError as error:
            hint = self._form.syntax.hint
            return Refused(f"the arguments cannot be read ({error}): write the call again, {hint}")

    def _after(self, text: str, position: int) -> _Reads:
        form = self._form
        if form.end:
            at = len(text) - len(text[position:].lstrip())
            if form.end.startswith(text[at:]) and text[at:] != form.end:
                return at, ()  # blanks are dropped; the beginning of the mark is held
            self._state = _State.TEXT
            if text.startswith(form.end, at):
                return at + len(form.end), ()
            self._rest.append(form.end)  # it is not certain that the call has ended
            return position, ()
        if form.following:
            if found := form.following.match(text, position):
                return found.end(), self._begin(found["name"])
            if form.following_part.fullmatch(text, position) and len(text) <= position + _HEAD_MAX:
                return position, ()
        self._state = _State.TEXT
        return position, ()

    def _judged(self) -> Sequence[Read]:
        """What the last call has become, now that all the text after it is known."""
        read, rest = self._unjudged, "".join(self._rest)
        self._unjudged = None
        self._rest.clear()
        if read is None:
            return ()
        if any(mark in rest for mark in (self._form.end, *self._form.syntax.quotes)):
            return (
                Refused(
                    "it is not certain where the arguments end, because one holds a mark of the "
                    f"call format, such as {self._form.end}: write the call again "
                    f"{self._form.syntax.hint}"
                ),
            )
        return (read,)

    def _outside(self, text: str) -> Sequence[Read]:
        self._silent = self._silent and not text.strip()
        if self._unjudged is not None:
            self._rest.append(text)
        return (Text(text),) if text and not self._called else ()


class _Brackets:
    """Finds the closing bracket of a call, whose opening one was read."""

    def __init__(self, syntax: Syntax) -> None:
        quotes = tuple(map(re.escape, syntax.quotes))
        escape = r"|\\" if syntax.escapes else ""
        self._outside = re.compile(rf"{'|'.join(quotes)}|[(){{}}\[\]]")
        self._inside = {
            quote: re.compile(mark + escape)
            for quote, mark in zip(syntax.quotes, quotes, strict=True)
        }
        self._quote = ""
        self._escaped = False
        self._depth = 1

    def closed_at(self, text: str, position: int, limit: int) -> int | None:
        """Where the bracket is, in a text that goes on at `position`; None if it goes on."""
        while position < limit:
            if self._escaped:
                self._escaped = False
                position += 1
                continue
            pattern = self._inside[self._quote] if self._quote else self._outside
            found = pattern.search(text, position, limit)
            if found is None:
                return None
            position = found.end()
            self._take(found[0])
            if not self._depth:
                return found.start()
        return None

    def _take(self, mark: str) -> None:
        if self._quote:
            self._escaped = mark == "\\"
            self._quote = self._quote if self._escaped else ""
        elif mark in self._inside:
            self._quote = mark
        else:
            self._depth += 1 if mark in "({[" else -1
