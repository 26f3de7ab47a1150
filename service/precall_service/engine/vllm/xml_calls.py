"""Tells whether a call in an XML form says certainly what its arguments are.

These forms have no escapes. An argument that holds one of their marks, as code that an agent writes
may, looks like the end of the argument, and vLLM's parsers cut it there. Such a call must not run
with half an argument. It shows: either the argument holds a mark, or something stands where only a
mark may stand.

Owns: the marks of each form. Never: reads the arguments; vLLM's parsers do.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

_BLANKS: Final = re.compile(r"\s*")


@dataclass(frozen=True, slots=True, kw_only=True)
class XmlForm:
    """The marks of a form.

    Attributes:
        opening: What stands before the arguments of a call; `{}` is the name of its tool.
        argument: What stands before a value.
        value_end: What ends a value.
        call_end: What ends a call.
        region_end: What may follow the last call; empty if nothing does.
        others: Marks, besides these ends, that no value may hold.
    """

    opening: str
    argument: re.Pattern[str]
    value_end: str
    call_end: str
    region_end: str
    others: tuple[str, ...]

    @property
    def ends(self) -> tuple[str, ...]:
        """The marks that end something."""
        return tuple(filter(None, (self.value_end, self.call_end, self.region_end)))


def _functions(region: str) -> XmlForm:
    return XmlForm(
        opening="<function={}>",
        argument=re.compile(r"<parameter=[^>]+>"),
        value_end="</parameter>",
        call_end="</function>",
        region_end=f"</{region}>",
        others=(f"<{region}>", "<function=", "<parameter="),
    )


_QWEN: Final = _functions("tool_call")
_GLM: Final = XmlForm(
    opening="<tool_call>{}",
    argument=re.compile(r"<arg_key>[^<]*</arg_key>\s*<arg_value>"),
    value_end="</arg_value>",
    call_end="</tool_call>",
    region_end="",
    others=("<tool_call>", "<arg_key>", "</arg_key>", "<arg_value>"),
)
XML_FORMS: Final = {
    "Qwen3EngineToolParser": _QWEN,
    "Step3p5ToolParser": _QWEN,
    "MiMoToolParser": _QWEN,
    "SeedOssEngineToolParser": _functions("seed:tool_call"),
    "Glm47MoeModelToolParser": _GLM,
    "Ling3ToolParser": _GLM,
    "MinimaxM2ToolParser": XmlForm(
        opening='<invoke name="{}">',
        argument=re.compile(r'<parameter name="[^"]*">'),
        value_end="</parameter>",
        call_end="</invoke>",
        region_end="</minimax:tool_call>",
        others=("<minimax:tool_call>", "<invoke name=", "<parameter name="),
    ),
}
"""By the name of vLLM's parser of the form."""


@dataclass(slots=True)
class XmlCalls:
    """Follows the calls of one message, beside the parser that reads them.

    A call can be judged once the next one begins or the message ends. Each character is looked at
    a fixed number of times.
    """

    form: XmlForm
    _texts: list[str] = field(default_factory=list[str])
    """The text since the arguments of the last call began."""
    _known: bool = False
    """Whether the beginning of the last call was found in the text."""

    def feed(self, text: str) -> None:
        """Adds what the parser is given."""
        self._texts.append(text)

    def begin(self, tool_name: str, length: int) -> str:
        """Begins a call, whose beginning is in the last `length` characters.

        Returns what is wrong with the call before; empty if nothing is.
        """
        text, opening = "".join(self._texts), self.form.opening.format(tool_name)
        at = text.find(opening, max(len(text) - length - len(opening), 0))
        if at < 0:  # some other spelling, of which only the parser knows
            problem, rest, known = "", text, False
        else:
            problem = self._problem(text[:at])
            rest, known = text[at + len(opening) :], True
        self._texts, self._known = [rest], known
        return problem

    def end(self) -> str:
        """Ends the message; returns what is wrong with its last call; empty if nothing is."""
        return self._problem("".join(self._texts))

    def _problem(self, text: str) -> str:
        """What is wrong with the call whose arguments the text begins with."""
        if not self._known or self._is_certain(text):
            return ""
        return (
            "it is not certain where the arguments end, because one holds a mark of the call "
            f"format, such as {self.form.value_end} or {self.form.call_end}: write the call again "
            "without such marks in its arguments, for example in several parts"
        )

    def _is_certain(self, text: str) -> bool:
        form, position = self.form, 0
        while True:
            position = _after_blanks(text, position)
            argument = form.argument.match(text, position)
            if argument is None:
                break
            start = argument.end()
            end = text.find(form.value_end, start)
            if end < 0 or any(text.find(mark, start, end) >= 0 for mark in self._never_in_values):
                return False
            position = end + len(form.value_end)
        if not text.startswith(form.call_end, position):
            return False
        rest = text[position + len(form.call_end) :].lstrip().removeprefix(form.region_end)
        return not any(mark in rest for mark in form.ends)

    @property
    def _never_in_values(self) -> tuple[str, ...]:
        return (*self.form.others, *self.form.ends)


def _after_blanks(text: str, position: int) -> int:
    found = _BLANKS.match(text, position)
    return position if found is None else found.end()
