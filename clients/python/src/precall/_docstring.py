"""Reads a docstring: what the function does, and what each of its parameters means."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import docstring_parser
from docstring_parser.google import GoogleParser

_HEADING = GoogleParser().titles_re


@dataclass(frozen=True, slots=True)
class Documentation:
    """The parts of a docstring."""

    description: str
    """Its text without the sections."""
    parameters: Mapping[str, str]
    """Descriptions by parameter name."""


def read_docstring(function: Callable[..., object]) -> Documentation:
    """Returns the parts of a function's docstring, in the style of Google, NumPy or Sphinx."""
    parsed = docstring_parser.parse(_sections_last(inspect.getdoc(function) or ""))
    return Documentation(
        description=(parsed.description or "").strip(),
        parameters={
            name.strip(): entry.description or ""
            for entry in parsed.params
            for name in entry.arg_name.split(",")  # NumPy describes `a, b : int` together
        },
    )


def _sections_last(text: str) -> str:
    """Returns a docstring with Google's sections moved behind the text that follows them.

    The parser drops text after a section ("unknown meta"), and takes a docstring that begins with a
    section for plain text. Both would lose a description that the model needs.
    """
    lines = text.splitlines()
    if lines and _HEADING.fullmatch(lines[0]) and not any(map(_HEADING.fullmatch, lines[1:])):
        # inspect.getdoc ignores the first line's indentation, so it removed the section's.
        lines[1:] = [f"    {line}" for line in lines[1:]]
    prose: list[str] = []
    sections: list[str] = []
    target = prose
    for line in lines:
        if _HEADING.fullmatch(line):
            target = sections
        elif line and not line[0].isspace():
            target = prose
        target.append(line)
    return "\n".join([*prose, "", *sections])
