"""Reads the arguments of calls that are written as literals: those of Python, and Gemma's.

Python's are `city='Paris', days=2`. Words of JSON, such as `true`, are literals too, and strings
may hold line breaks. Gemma's are `{city:<|"|>Paris<|"|>,days:2}`; its strings have no escapes.

Never: evaluates anything, or knows where a call ends.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from typing import Any, Final, Protocol, TypeAlias

_NUMBER: Final = re.compile(r"[+-]?[0-9_.]+(?:[eE][+-]?[0-9]+)?")
_ESCAPE_OR_BREAK: Final = re.compile(r"\\.|[\n\r\0]", re.DOTALL)
_WORDS: Final[dict[str, bool | None]] = {
    "True": True,
    "False": False,
    "None": None,
    "true": True,
    "false": False,
    "null": None,
}
_SHOWN_MAX: Final = 40

_Token: TypeAlias = tuple[str | None, str]
"""A string, a word or a mark, with its kind; the last one has none."""


class Syntax(Protocol):
    """How a family writes arguments.

    Attributes:
        quotes: What begins and ends a string.
        escapes: Whether a backslash may stand before a quote.
        hint: What a model should mind.
    """

    quotes: tuple[str, ...]
    escapes: bool
    hint: str

    def arguments(self, written: str) -> dict[str, Any]:
        """The arguments of a call, from what stands between its brackets.

        Raises:
            ValueError: they are written otherwise.
            RecursionError: they are nested too deeply.
        """
        ...


class PythonSyntax:
    """`name=value, ...`, where each value is a literal of Python."""

    quotes: tuple[str, ...] = ("'", '"')
    escapes = True
    hint = "with a name and an equals sign before each value, and quotes inside of texts escaped"

    _token = re.compile(
        r"""\s*(?:(?P<string>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')"""
        r"""|(?P<word>[^\s,:(){}\[\]='"]+)|(?P<mark>[,:{}\[\]=]))""",
        re.DOTALL,
    )

    def arguments(self, written: str) -> dict[str, Any]:
        """As `Syntax` says."""
        return _Literals(self._joined(written)).named_values()

    def _joined(self, written: str) -> Iterator[_Token]:
        """The tokens. Strings that follow on each other are one, as in Python."""
        strings: list[str] = []
        for kind, text in _tokens(self._token, written):
            if kind == "string":
                strings.append(_python_string(text))
                continue
            if strings:
                yield "string", "".join(strings)
                strings.clear()
            yield kind, text
        if strings:
            yield "string", "".join(strings)


class GemmaSyntax:
    """`name:value,...`, where strings stand between two of the same mark."""

    escapes = False
    hint = "without the marks of the call format in its texts"

    def __init__(self, quote: str) -> None:
        mark = re.escape(quote)
        self.quotes = (quote,)
        self._token = re.compile(
            rf"\s*(?:{mark}(?P<string>.*?){mark}|(?P<word>[^\s,:{{}}\[\]]+)|(?P<mark>[,:{{}}\[\]]))",
            re.DOTALL,
        )

    def arguments(self, written: str) -> dict[str, Any]:
        """As `Syntax` says."""
        return _Literals(_tokens(self._token, written), bare_texts=True).named_values()


def as_json(syntax: Syntax, written: str) -> str:
    """The arguments as the text of a JSON object. Raises as `Syntax.arguments` does."""
    return json.dumps(syntax.arguments(written), ensure_ascii=False, allow_nan=False)


class _Literals:
    """Reads values from tokens. With `bare_texts`, words that are nothing else are texts."""

    def __init__(self, tokens: Iterator[_Token], *, bare_texts: bool = False) -> None:
        self._tokens: list[_Token] = [*tokens, (None, "the end")]
        self._next = 0
        self._bare_texts = bare_texts
        self._assigns = ":" if bare_texts else "="

    def named_values(self) -> dict[str, Any]:
        values: dict[str, Any] = {}
        while self._goes_on():
            kind, name = self._take()
            named = kind == "word" or (kind == "string" and self._bare_texts)
            if not named or name in values:
                raise ValueError(f"a new name is expected instead of {_shown(name)}")
            self._expect(self._assigns)
            values[name] = self._value()
            if self._goes_on():
                self._expect(",")
        return values

    def _goes_on(self) -> bool:
        return self._next < len(self._tokens) - 1

    def _take(self) -> _Token:
        token = self._tokens[self._next]
        self._next = min(self._next + 1, len(self._tokens) - 1)
        return token

    def _expect(self, mark: str) -> None:
        token = self._take()
        if token != ("mark", mark):
            raise ValueError(f"{mark!r} is expected instead of {_shown(token[1])}")

    def _value(self) -> Any:
        kind, text = self._take()
        if kind == "string":
            return text
        if kind == "word":
            return self._word(text)
        if (kind, text) == ("mark", "["):
            return list(self._items())
        if (kind, text) == ("mark", "{"):
            return dict(self._pairs())
        raise ValueError(f"a value is expected instead of {_shown(text)}")

    def _word(self, text: str) -> Any:
        if text in _WORDS:
            return _WORDS[text]
        if _NUMBER.fullmatch(text):
            return int(text) if text.lstrip("+-").replace("_", "").isdigit() else float(text)
        if self._bare_texts:
            return text
        raise ValueError(f"{_shown(text)} is no literal")

    def _items(self) -> Iterator[Any]:
        while self._tokens[self._next] != ("mark", "]"):
            yield self._value()
            if self._tokens[self._next] != ("mark", "]"):
                self._expect(",")
        self._take()

    def _pairs(self) -> Iterator[tuple[str, Any]]:
        while self._tokens[self._next] != ("mark", "}"):
            kind, name = self._take()
            if kind != "string" and not (kind == "word" and self._bare_texts):
                raise ValueError(f"a text is expected as a key instead of {_shown(name)}")
            self._expect(":")
            yield name, self._value()
            if self._tokens[self._next] != ("mark", "}"):
                self._expect(",")
        self._take()


def _tokens(pattern: re.Pattern[str], written: str) -> Iterator[_Token]:
    position, end = 0, len(written.rstrip())
    while position < end:
        found = pattern.match(written, position)
        if found is None:
            raise ValueError(f"{_shown(written[position:].lstrip())} is no literal")
        kind = found.lastgroup
        yield kind, found[kind or 0]
        position = found.end()


def _shown(text: str) -> str:
    return repr(text[:_SHOWN_MAX])


def _python_string(text: str) -> str:
    """The string of a literal, which may hold line breaks."""
    escaped = _ESCAPE_OR_BREAK.sub(
        lambda found: found[0] if found[0][0] == "\\" else f"\\x{ord(found[0]):02x}", text
    )
    try:
        return str(ast.literal_eval(escaped))
    except SyntaxError as error:
        raise ValueError(f"{_shown(text)} is no string ({error.msg})") from error
