"""Reads a docstring: what the function does, and what each of its parameters is."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import docstring_parser

_HEADING = re.compile(
    "(Args|Arguments|Parameters|Params|Returns|Yields|Raises|Except|Exceptions|Attributes"
    r"|Example|Examples):\s*"
)


@dataclass(frozen=True, slots=True)
class Documentation:
    """What a docstring says."""

    description: str
    """Its text without the sections."""
    parameters: Mapping[str, str]
    """Descriptions by the parameters' names."""


def read_docstring(function: Callable[..., object]) -> Documentation:
    """Returns what a function's docstring says, in the style of Google, NumPy or Sphinx."""
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
    """Returns a docstring with Google's sections moved behind the text that stands after them.

    The parser drops such text, and takes a docstring that begins with a section for plain text.
    """
    lines = text.splitlines()
    if lines and _HEADING.fullmatch(lines[0]) and not any(map(_HEADING.fullmatch, lines[1:])):
        # Its first line does not count for the indentation, so the section has lost its own.
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
