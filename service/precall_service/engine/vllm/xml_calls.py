"""Tells whether a call in an XML form says certainly what its arguments are.

These forms have no escapes. An argument that holds one of their marks, as code that an agent writes
may, looks like the end of the argument, and vLLM's parsers cut it there. Such a call must not run
with half an argument. It shows: either the argument holds a mark, or something stands where only a
mark may stand.

Owns: the marks of each form. Never: reads the arguments; vLLM's parsers do.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Final

_BLANKS: Final = re.compile(r"\s*")


@dataclass(frozen=True, slots=True, kw_only=True)
class XmlForm:
    """The marks of a form.

    Attributes:
        opening: What stands before the arguments of a call, as a pattern in which `{}` is the name
            of its tool.
        argument: What stands before a value.
        value_end: What ends a value.
        call_end: What ends a call.
        region_end: What may follow the last call; empty if nothing does.
        others: Marks, besides these ends, that no value may hold.
        suffix: What some tokenizers add to the names of these marks.
    """

    opening: str
    argument: re.Pattern[str]
    value_end: str
    call_end: str
    region_end: str
    others: tuple[str, ...]
    suffix: re.Pattern[str] | None = None

    @property
    def ends(self) -> tuple[str, ...]:
        """The marks that end something."""
        return tuple(filter(None, (self.value_end, self.call_end, self.region_end)))

    def call_length(self, text: str) -> int | None:
        """Where the call ends whose arguments the text begins with; None if that is uncertain."""
        position = 0
        while argument := self.argument.match(text, _after_blanks(text, position)):
            start = argument.end()
            end = text.find(self.value_end, start)
            never = (*self.others, *self.ends)
            if end < 0 or any(text.find(mark, start, end) >= 0 for mark in never):
                return None
            position = end + len(self.value_end)
        position = _after_blanks(text, position)
        if not text.startswith(self.call_end, position):
            return None
        return position + len(self.call_end)


@dataclass(frozen=True, slots=True, kw_only=True)
class NestedXmlForm(XmlForm):
    """A form whose values may be elements again, all of whose tags follow on the same mark.

    `argument` is that mark with any tag, whose name is the group `name` and ends it with a `/`.
    """

    def call_length(self, text: str) -> int | None:
        """As the form without nesting: each tag must close the last one that is open."""
        open_names: list[str] = []
        leaf, position = False, 0
        for tag in self.argument.finditer(text):
            name, between = tag["name"], text[position : tag.start()]
            closes = name.startswith("/")
            if between.strip() and not (leaf and closes):
                return None
            position = tag.end()
            if not closes:
                open_names.append(name)
            elif open_names:
                if open_names.pop() != name[1:]:
                    return None
            else:
                return position if text.startswith(self.call_end, tag.start()) else None
            leaf = not closes
        return None


def _functions(region: str) -> XmlForm:
    return XmlForm(
        opening="<function={}>",
        argument=re.compile(r"<parameter=[^>]+>"),
        value_end="</parameter>",
        call_end="</function>",
        region_end=f"</{region}>",
        others=(f"<{region}>", "<function=", "<parameter="),
    )


def _invocations(region: str, space: str = "", attribute: str = "") -> XmlForm:
    return XmlForm(
        opening=f'<{space}invoke name="{{}}">',
        argument=re.compile(rf'<{space}parameter name="[^"]*"{attribute}>'),
        value_end=f"</{space}parameter>",
        call_end=f"</{space}invoke>",
        region_end=f"</{region}>",
        others=(f"<{region}>", f"<{space}invoke name=", f"<{space}parameter name="),
    )


def _deepseek(region: str) -> XmlForm:
    space = "｜DSML｜"  # noqa: RUF001 the bars are part of the token
    return _invocations(f"{space}{region}", space, ' string="(?:true|false)"')


_QWEN: Final = _functions("tool_call")
_GLM: Final = XmlForm(
    opening=r"<tool_call>\s*{}",
    argument=re.compile(r"<arg_key>[^<]*</arg_key>\s*<arg_value>"),
    value_end="</arg_value>",
    call_end="</tool_call>",
    region_end="",
    others=("<tool_call>", "<arg_key>", "</arg_key>", "<arg_value>"),
)
_HUNYUAN: Final = replace(
    _GLM,
    opening=r"<tool_call>\s*{}\s*<tool_sep>",
    region_end="</tool_calls>",
    others=(*_GLM.others, "<tool_calls>", "<tool_sep>"),
    suffix=re.compile(r"(?<=<)(/?(?:tool_calls?|tool_sep|arg_key|arg_value)):\w+(?=>)"),
)
_MINIMAX_MARK: Final = "]<]minimax[>["
XML_FORMS: Final = {
    "Qwen3EngineToolParser": _QWEN,
    "Step3p5ToolParser": _QWEN,
    "MiMoToolParser": _QWEN,
    "SeedOssEngineToolParser": _functions("seed:tool_call"),
    "Glm47MoeModelToolParser": _GLM,
    "Ling3ToolParser": _GLM,
    "HYV3ToolParser": _HUNYUAN,
    "DotsToolParser": _invocations("dots_function_call"),
    "MinimaxM2ToolParser": _invocations("minimax:tool_call"),
    "DeepSeekV32EngineToolParser": _deepseek("function_calls"),
    "DeepSeekV4EngineToolParser": _deepseek("tool_calls"),
    "DeepSeekV41EngineToolParser": _deepseek("tool_calls"),
    "Step3ToolParser": replace(  # whose parser leaves out values with this character
        _invocations("", "steptml:"),
        region_end="<｜tool_call_end｜>",  # noqa: RUF001
        others=("<",),
    ),
    "KimiK3ToolParser": XmlForm(
        opening=r'<\|open\|>call tool="{}" index="\d+"<\|sep\|>',
        argument=re.compile(r'<\|open\|>argument key="[^"]*" type="\w+"<\|sep\|>'),
        value_end="<|close|>argument<|sep|>",
        call_end="<|close|>call<|sep|>",
        region_end="<|close|>tools<|sep|>",
        others=("<|open|>", "<|close|>"),
    ),
    "MinimaxM3ToolParser": NestedXmlForm(
        opening=re.escape(_MINIMAX_MARK) + '<invoke name="{}">',
        argument=re.compile(re.escape(_MINIMAX_MARK) + r"<(?P<name>/?[^<>\s]+)>"),
        value_end=f"{_MINIMAX_MARK}</",
        call_end=f"{_MINIMAX_MARK}</invoke>",
        region_end=f"{_MINIMAX_MARK}</tool_call>",
        others=(_MINIMAX_MARK,),
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

    def begin(self, tool_name: str) -> str:
        """Begins a call, whose beginning is in the text so far.

        Returns what is wrong with the call before; empty if nothing is.
        """
        text = self._text()
        found = re.search(self.form.opening.format(re.escape(tool_name)), text)
        if found is None:  # some other spelling, of which only the parser knows
            problem, rest, known = "", text, False
        else:
            problem = self._problem(text[: found.start()])
            rest, known = text[found.end() :], True
        self._texts, self._known = [rest], known
        return problem

    def end(self) -> str:
        """Ends the message; returns what is wrong with its last call; empty if nothing is."""
        return self._problem(self._text())

    def _text(self) -> str:
        text = "".join(self._texts)
        return text if self.form.suffix is None else self.form.suffix.sub(r"\1", text)

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
        length = self.form.call_length(text)
        if length is None:
            return False
        rest = text[length:].lstrip().removeprefix(self.form.region_end)
        return not any(mark in rest for mark in self.form.ends)


def _after_blanks(text: str, position: int) -> int:
    found = _BLANKS.match(text, position)
    return position if found is None else found.end()
