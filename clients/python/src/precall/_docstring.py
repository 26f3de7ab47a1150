"""Reads a docstring: what the function does, and what each of its parameters means."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import docstring_parser
from docstring_parser import Docstring, DocstringStyle
from docstring_parser.google import GoogleParser

_HEADING: Final = GoogleParser().titles_re
_PARAMETERS: Final = frozenset(
    {"args", "arguments", "params", "parameters", "other parameters", "keyword args"}
)
_UNDERLINE: Final = re.compile(r"-{3,}\s*")
_FIELD: Final = re.compile(r"[:@]\w+")
_PARAMETER_FIELD: Final = re.compile(
    r"[:@](param|parameter|arg|argument|key|keyword|type)\b", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Documentation:
    """The parts of a docstring."""

    description: str
    """All of its text but the descriptions of the parameters."""
    parameters: Mapping[str, str]
    """Descriptions by parameter name."""


def read_docstring(text: str) -> Documentation:
    """Returns the parts of a clean docstring, in the style of Google, NumPy or Sphinx."""
    lines = text.splitlines()
    if lines and _HEADING.fullmatch(lines[0]) and not any(map(_HEADING.fullmatch, lines[1:])):
        # Python ignores the first line's indentation, so it removed the section's.
        lines[1:] = [f"    {line}" for line in lines[1:]]
    parsed = docstring_parser.parse("\n".join(_sections_last(lines)))
    return Documentation(
        description="\n".join(_without_parameters(lines, parsed.style)).strip(),
        parameters={
            name.strip(): entry.description or ""
            for entry in _described(parsed)
            for name in entry.arg_name.split(",")  # NumPy describes `a, b : int` together
        },
    )


def _described(parsed: Docstring) -> Iterator[docstring_parser.DocstringParam]:
    return (entry for entry in parsed.params if entry.args[0] != "attribute")


def _sections_last(lines: Iterable[str]) -> list[str]:
    """Returns a docstring with Google's sections moved behind the text that follows them.

    The parser drops text after a section ("unknown meta"), and takes a docstring that begins with a
    section for plain text.
    """
    prose: list[str] = []
    sections: list[str] = []
    target = prose
    for line in lines:
        if _HEADING.fullmatch(line):
            target = sections
        elif line and not line[0].isspace():
            target = prose
        target.append(line)
    return [*prose, "", *sections]


def _without_parameters(lines: list[str], style: DocstringStyle | None) -> Iterator[str]:
    """Yields the lines that do not describe parameters, which have their place in the schema."""
    match style:
        case DocstringStyle.NUMPYDOC:
            return _without_numpy_sections(lines)
        case DocstringStyle.REST | DocstringStyle.EPYDOC:
            return _without_fields(lines)
        case _:
            return _without_google_sections(lines)


def _without_google_sections(lines: Iterable[str]) -> Iterator[str]:
    inside = False
    for line in lines:
        if line and not line[0].isspace():
            inside = (
                line.rstrip().lower().removesuffix(":") in _PARAMETERS and line.rstrip()[-1] == ":"
            )
        if not inside:
            yield line


def _without_numpy_sections(lines: list[str]) -> Iterator[str]:
    inside = False
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        if _UNDERLINE.fullmatch(following):
            inside = line.strip().lower() in _PARAMETERS
        if not inside:
            yield line


def _without_fields(lines: Iterable[str]) -> Iterator[str]:
    inside = False
    for line in lines:
        if _FIELD.match(line):
            inside = _PARAMETER_FIELD.match(line) is not None
        elif line and not line[0].isspace():
            inside = False
        if not inside:
            yield line
