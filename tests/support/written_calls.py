"""Calls as the models of many families write them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

Call: TypeAlias = tuple[str, dict[str, Any]]
Writer: TypeAlias = Callable[[Sequence[Call]], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """A form of calls.

    Attributes:
        parser: The name of vLLM's parser.
        write: Writes calls.
        tokens: Marks that are tokens in the tokenizers of the family.
        exact: Whether arguments may hold any text. If not, those with marks are refused.
        objects: Whether `write` can write objects, and vLLM's parser reads them.
    """

    parser: str
    write: Writer
    tokens: tuple[str, ...] = ()
    exact: bool = True
    objects: bool = True

    def end_of_text(self) -> str:
        """What follows on the last text of a call."""
        return self.write([("get_weather", {"city": "XYZ"})]).partition("XYZ")[2]


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _bare(value: Any) -> str:
    return value if isinstance(value, str) else _json(value)


def _one(name: str, arguments: dict[str, Any], key: str = "arguments") -> str:
    return _json({"name": name, key: arguments})


def _each(before: str, after: str, separator: str = "", key: str = "arguments") -> Writer:
    """Writes each call as an object between marks."""

    def write(calls: Sequence[Call]) -> str:
        return separator.join(f"{before}{_one(name, part, key)}{after}" for name, part in calls)

    return write


def _array(before: str, after: str, **more: str) -> Writer:
    def write(calls: Sequence[Call]) -> str:
        return before + _json([{"name": n, "arguments": a, **more} for n, a in calls]) + after

    return write


def _named(before: str, between: str, after: str, around: tuple[str, str] = ("", "")) -> Writer:
    """Writes names outside of the objects. `{}` is the number of the call."""

    def write(calls: Sequence[Call]) -> str:
        texts = [
            f"{before}{name}{between.format(number)}{_json(arguments)}{after}"
            for number, (name, arguments) in enumerate(calls)
        ]
        return around[0] + "".join(texts) + around[1]

    return write


def _tagged(
    opening: str, argument: str, end: str, around: tuple[str, str] = ("", ""), *, sep: str = ""
) -> Writer:
    """Writes values between tags. `opening` has the name of the tool, `argument` one argument."""

    def write(calls: Sequence[Call]) -> str:
        texts = [
            opening.format(name)
            + "".join(argument.format(key, _bare(value)) for key, value in arguments.items())
            + end
            for name, arguments in calls
        ]
        return around[0] + sep.join(texts) + around[1]

    return write


def _python(before: str, after: str, separator: str = ", ") -> Writer:
    def write(calls: Sequence[Call]) -> str:
        texts = [
            f"{name}({', '.join(f'{key}={value!r}' for key, value in arguments.items())})"
            for name, arguments in calls
        ]
        return before + separator.join(texts) + after

    return write


def _gemma(start: str, end: str, quote: str) -> Writer:
    def value(each: Any) -> str:
        if isinstance(each, dict):
            parts = cast("dict[str, Any]", each).items()
            return "{" + ",".join(f"{key}:{value(part)}" for key, part in parts) + "}"
        if isinstance(each, list):
            return "[" + ",".join(map(value, cast("list[Any]", each))) + "]"
        return f"{quote}{each}{quote}" if isinstance(each, str) else _json(each)

    def write(calls: Sequence[Call]) -> str:
        return "".join(f"{start}call:{name}{value(part)}{end}" for name, part in calls)

    return write


def _kimi_k3(calls: Sequence[Call]) -> str:
    def kind(value: object) -> str:
        match value:
            case str():
                return "string"
            case bool():
                return "boolean"
            case int() | float():
                return "number"
            case dict():
                return "object"
            case _:
                return "array"

    texts = [
        f'<|open|>call tool="{name}" index="{number}"<|sep|>'
        + "".join(
            f'<|open|>argument key="{key}" type="{kind(value)}"<|sep|>'
            f"{_bare(value)}<|close|>argument<|sep|>"
            for key, value in arguments.items()
        )
        + "<|close|>call<|sep|>"
        for number, (name, arguments) in enumerate(calls, start=1)
    ]
    begin = "<|open|>response<|sep|><|close|>response<|sep|><|open|>tools<|sep|>"
    return begin + "".join(texts) + "<|close|>tools<|sep|><|close|>message<|sep|>"


_M3 = "]<]minimax[>["
_BAR = "\uff5c"  # as in DeepSeek's tokens
_DSML = f"{_BAR}DSML{_BAR}"
_DEEPSEEK = {
    name: f"<{_BAR}tool{name}{_BAR}>"
    for name in ("▁calls▁begin", "▁calls▁end", "▁call▁begin", "▁call▁end", "▁sep")
}
_KIMI = {
    name: f"<|tool_{name}|>"
    for name in ("calls_section_begin", "calls_section_end", "call_begin", "call_end")
}
_KIMI_ARGUMENT = "<|tool_call_argument_begin|>"


def _deepseek(begin: str, between: str, end: str) -> Writer:
    marks = list(_DEEPSEEK.values())
    return _named(marks[2] + begin, between, end + marks[3], (marks[0], marks[1]))


def _dsml(region: str) -> Writer:
    def write(calls: Sequence[Call]) -> str:
        texts = [
            f'<{_DSML}invoke name="{name}">\n'
            + "".join(
                f'<{_DSML}parameter name="{key}" string="{str(isinstance(value, str)).lower()}">'
                f"{_bare(value)}</{_DSML}parameter>\n"
                for key, value in arguments.items()
            )
            + f"</{_DSML}invoke>\n"
            for name, arguments in calls
        ]
        return f"\n\n<{_DSML}{region}>\n" + "".join(texts) + f"</{_DSML}{region}>"

    return write


_LINES = ("<function={}>\n", "<parameter={}>\n{}\n</parameter>\n", "</function>")
_GLM = ("<tool_call>{}", "<arg_key>{}</arg_key><arg_value>{}</arg_value>", "</tool_call>")
_MINIMAX = ('<invoke name="{}">\n', '<parameter name="{}">{}</parameter>\n', "</invoke>\n")

FAMILIES = {
    "Hermes": Family(parser="hermes", write=_each("<tool_call>\n", "\n</tool_call>", "\n")),
    "Granite 3": Family(
        parser="granite", write=_array("<|tool_call|>", ""), tokens=("<|tool_call|>",)
    ),
    "Granite 4": Family(parser="granite4", write=_each("<tool_call>\n", "\n</tool_call>", "\n")),
    "LongCat": Family(
        parser="longcat", write=_each("<longcat_tool_call>\n", "\n</longcat_tool_call>", "\n")
    ),
    "Kimi K2": Family(
        parser="kimi_k2",
        write=_named(
            f"{_KIMI['call_begin']}functions.",
            ":{}" + _KIMI_ARGUMENT,
            _KIMI["call_end"],
            (_KIMI["calls_section_begin"], _KIMI["calls_section_end"]),
        ),
        tokens=(*_KIMI.values(), _KIMI_ARGUMENT),
    ),
    "Mistral Nemo": Family(
        parser="mistral", write=_array("[TOOL_CALLS]", "", id="abcdefgh1"), tokens=("[TOOL_CALLS]",)
    ),
    "Devstral": Family(
        parser="mistral",
        write=_named("[TOOL_CALLS]", "[ARGS]", ""),
        tokens=("[TOOL_CALLS]", "[ARGS]"),
    ),
    "Mistral Small 3.2": Family(
        parser="mistral",
        write=_named("[TOOL_CALLS]", "[CALL_ID]abcdefgh{}[ARGS]", ""),
        tokens=("[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"),
    ),
    "Mistral 11": Family(
        parser="mistral", write=_named("[TOOL_CALLS]", "", ""), tokens=("[TOOL_CALLS]",)
    ),
    "InternLM": Family(
        parser="internlm",
        write=_each("<|action_start|><|plugin|>", "<|action_end|>", key="parameters"),
        tokens=("<|action_start|>", "<|action_end|>", "<|plugin|>"),
    ),
    "Llama 3": Family(
        parser="llama3_json",
        write=_each("", "", "; ", key="parameters"),
        tokens=("<|python_tag|>",),
    ),
    "Llama 3 with its token": Family(
        parser="llama3_json",
        write=_each("<|python_tag|>", "", "; ", key="parameters"),
        tokens=("<|python_tag|>",),
    ),
    "Jamba": Family(
        parser="jamba",
        write=_array("<tool_calls>", "</tool_calls>"),
        tokens=("<tool_calls>", "</tool_calls>"),
    ),
    "Hunyuan A13B": Family(parser="hunyuan_a13b", write=_array("<tool_calls>", "</tool_calls>")),
    "Ernie 4.5": Family(
        parser="ernie45",
        write=_each("<tool_call>\n", "\n</tool_call>", "\n"),
        tokens=("<tool_call>", "</tool_call>"),
    ),
    "DeepSeek V3": Family(
        parser="deepseek_v3",
        write=_deepseek(f"function{_DEEPSEEK['▁sep']}", "\n```json\n", "\n```"),
        tokens=tuple(_DEEPSEEK.values()),
    ),
    "DeepSeek V3.1": Family(
        parser="deepseek_v31",
        write=_deepseek("", _DEEPSEEK["▁sep"], ""),
        tokens=tuple(_DEEPSEEK.values()),
    ),
    "Apertus": Family(
        parser="apertus",
        write=lambda calls: (
            f"<|tools_prefix|>{_json([{name: part} for name, part in calls])}<|tools_suffix|>"
        ),
        tokens=("<|tools_prefix|>", "<|tools_suffix|>"),
    ),
    "GigaChat 3.1": Family(
        parser="gigachat3", write=_each("<|function_call|>", ""), tokens=("<|function_call|>",)
    ),
    "GigaChat 3": Family(
        parser="gigachat3",
        write=_each("<|message_sep|>\n\nfunction call<|role_sep|>\n", ""),
        tokens=("<|message_sep|>", "<|role_sep|>"),
    ),
    "LFM2": Family(
        parser="lfm2",
        write=_python("<|tool_call_start|>[", "]<|tool_call_end|>"),
        tokens=("<|tool_call_start|>", "<|tool_call_end|>"),
    ),
    "OLMo 3": Family(
        parser="olmo3", write=_python("<function_calls>\n", "\n</function_calls>", "\n")
    ),
    "Llama 4": Family(
        parser="llama4_pythonic",
        write=_python("<|python_start|>[", "]<|python_end|>"),
        tokens=("<|python_start|>", "<|python_end|>"),
    ),
    "Gemma 4": Family(
        parser="gemma4",
        write=_gemma("<|tool_call>", "<tool_call|>", '<|"|>'),
        tokens=("<|tool_call>", "<tool_call|>", '<|"|>'),
        exact=False,
    ),
    "FunctionGemma": Family(
        parser="functiongemma",
        write=_gemma("<start_function_call>", "<end_function_call>", "<escape>"),
        tokens=("<start_function_call>", "<end_function_call>", "<escape>"),
        exact=False,
    ),
    "Qwen3-Coder": Family(
        parser="qwen3_coder",
        write=_tagged(
            f"<tool_call>\n{_LINES[0]}", _LINES[1], f"{_LINES[2]}\n</tool_call>", sep="\n"
        ),
        exact=False,
    ),
    "Step 3.5": Family(
        parser="step3p5",
        write=_tagged(
            f"<tool_call>\n{_LINES[0]}", _LINES[1], f"{_LINES[2]}\n</tool_call>", sep="\n"
        ),
        exact=False,
    ),
    "MiMo V2": Family(
        parser="mimo",
        write=_tagged(
            "<tool_call><function={}>", "<parameter={}>{}</parameter>", "</function></tool_call>"
        ),
        exact=False,
    ),
    "Seed-OSS": Family(
        parser="seed_oss",
        write=_tagged(
            f"<seed:tool_call>\n{_LINES[0]}",
            "<parameter={}>{}</parameter>\n",
            f"{_LINES[2]}\n</seed:tool_call>",
            sep="\n",
        ),
        exact=False,
    ),
    "GLM 4.7": Family(parser="glm47", write=_tagged(*_GLM), exact=False),
    "Hunyuan 3": Family(
        parser="hy_v3",
        write=_tagged(
            "<tool_call>{}<tool_sep>\n",
            "<arg_key>{}</arg_key>\n<arg_value>{}</arg_value>\n",
            "</tool_call>\n",
            ("<tool_calls>\n", "</tool_calls>"),
        ),
        tokens=(
            *("<tool_calls>", "</tool_calls>", "<tool_call>", "</tool_call>", "<tool_sep>"),
            *("<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"),
        ),
        exact=False,
    ),
    "MiniMax M2": Family(
        parser="minimax_m2",
        write=_tagged(*_MINIMAX, ("\n<minimax:tool_call>\n", "</minimax:tool_call>")),
        tokens=("<minimax:tool_call>", "</minimax:tool_call>"),
        exact=False,
    ),
    "MiniMax M3": Family(
        parser="minimax_m3",
        write=_tagged(
            f'{_M3}<invoke name="{{}}">',
            f"{_M3}<{{0}}>{{1}}{_M3}</{{0}}>",
            f"{_M3}</invoke>\n",
            (f"{_M3}<tool_call>\n", f"{_M3}</tool_call>"),
        ),
        exact=False,
        objects=False,
    ),
    "dots": Family(
        parser="dots",
        write=_tagged(
            f"<dots_function_call>\n{_MINIMAX[0]}",
            _MINIMAX[1],
            f"{_MINIMAX[2]}</dots_function_call>",
        ),
        exact=False,
    ),
    "DeepSeek V3.2": Family(parser="deepseek_v32", write=_dsml("function_calls"), exact=False),
    "DeepSeek V4": Family(parser="deepseek_v4", write=_dsml("tool_calls"), exact=False),
    "Kimi K3": Family(
        parser="kimi_k3", write=_kimi_k3, tokens=("<|open|>", "<|close|>", "<|sep|>"), exact=False
    ),
    "Step 3": Family(
        parser="step3",
        write=_tagged(
            f"<{_BAR}tool_call_begin{_BAR}>function<{_BAR}tool_sep{_BAR}>"
            '<steptml:invoke name="{}">',
            '<steptml:parameter name="{}">{}</steptml:parameter>',
            f"</steptml:invoke><{_BAR}tool_call_end{_BAR}>",
            (f"<{_BAR}tool_calls_begin{_BAR}>", f"<{_BAR}tool_calls_end{_BAR}>"),
        ),
        tokens=tuple(
            f"<{_BAR}{name}{_BAR}>"
            for name in (
                *("tool_calls_begin", "tool_calls_end"),
                *("tool_call_begin", "tool_call_end", "tool_sep"),
            )
        ),
        exact=False,
        objects=False,
    ),
}
