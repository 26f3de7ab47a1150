"""The forms in which families of models write calls that our own readers read.

Never: reads a message, or knows vLLM.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Final

from precall_service.engine.vllm.json_calls import JsonForm
from precall_service.engine.vllm.literal_calls import LiteralForm
from precall_service.engine.vllm.literals import GemmaSyntax, PythonSyntax

_BLANKS: Final = re.compile(r"\s*")
_RESPONSE: Final = ("<response>", "</response>")
"""What stands around the text of a message that began with a thought."""
_ARRAY: Final = re.compile(r"\s*\[\s*")
_ARRAY_OR_NOT: Final = re.compile(r"\s*\[?\s*")


def _objects(start: str, end: str) -> JsonForm:
    return JsonForm(starts=(start,), head=_BLANKS, head_part=_BLANKS, end=end)


def _arrays(start: str, end: str, *, names_are_keys: bool = False) -> JsonForm:
    return JsonForm(
        starts=(start,),
        head=_ARRAY,
        head_part=_ARRAY_OR_NOT,
        around=(end,),
        several=True,
        names_are_keys=names_are_keys,
    )


HERMES: Final = _objects("<tool_call>", "</tool_call>")
KIMI: Final = JsonForm(
    starts=("<|tool_call_begin|>",),
    head=re.compile(
        r"\s*(?=(?P<id>[^\s<]+:\d+)?)(?:functions\.)?(?P<name>[^\s:{}]+)(?::\d+)?\s*"
        r"<\|tool_call_argument_begin\|>\s*"
    ),
    head_part=re.compile(r'[^{}"]*'),
    end="<|tool_call_end|>",
    around=("<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"),
)
MISTRAL: Final = JsonForm(
    starts=("[TOOL_CALLS]",),
    head=re.compile(
        r"\s*(?:\[?|(?P<name>[\w.-]+)\s*"
        r"(?:\[CALL_ID\]\s*(?:(?P<id>[0-9A-Za-z]{9})|\w*)\s*)?(?:\[ARGS\])?)\s*"
    ),
    head_part=re.compile(r"[\s\w.\[\]-]*"),
    several=True,
)
DEEPSEEK: Final = JsonForm(
    starts=("<｜tool▁call▁begin｜>",),  # noqa: RUF001 the bars are part of the token
    head=re.compile(
        r"\s*(?:function<｜tool▁sep｜>)?(?P<name>[^\s<{]+)\s*"  # noqa: RUF001
        r"(?:<｜tool▁sep｜>)?\s*(?:```json)?\s*"  # noqa: RUF001
    ),
    head_part=re.compile(r'[^{}"]*'),
    end="<｜tool▁call▁end｜>",  # noqa: RUF001
    around=("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"),  # noqa: RUF001
)


_NAME: Final = r"(?P<name>[A-Za-z_][\w.-]*)"
_NAME_PART: Final = r"(?:[A-Za-z_][\w.-]*\s*)?"


def _python(start: str, end: str) -> LiteralForm:
    return LiteralForm(
        starts=(start,),
        first=re.compile(rf"\s*\[?\s*{_NAME}\s*\("),
        first_part=re.compile(rf"\s*\[?\s*{_NAME_PART}"),
        following=re.compile(rf"[\s,;]*{_NAME}\s*\("),
        following_part=re.compile(rf"[\s,;]*{_NAME_PART}"),
        syntax=PythonSyntax(),
        dropped=(end,),
    )


def _gemma(start: str, end: str, quote: str) -> LiteralForm:
    return LiteralForm(
        starts=(start,),
        first=re.compile(rf"\s*call:\s*{_NAME}\s*{{"),
        first_part=re.compile(rf"\s*[cal]{{0,4}}(?::\s*{_NAME_PART})?"),
        syntax=GemmaSyntax(quote),
        end=end,
        dropped=(end,),
    )


GRANITE: Final = JsonForm(
    starts=("<|tool_call|>", "<tool_call>"),
    head=_ARRAY_OR_NOT,
    head_part=_ARRAY_OR_NOT,
    dropped=_RESPONSE,
    several=True,
)
LONGCAT: Final = _objects("<longcat_tool_call>", "</longcat_tool_call>")
INTERNLM: Final = _objects("<|action_start|><|plugin|>", "<|action_end|>")
LLAMA: Final = JsonForm(
    starts=("<|python_tag|>",), head=_BLANKS, head_part=_BLANKS, several=True, bare=True
)
TOOL_CALLS: Final = _arrays("<tool_calls>", "</tool_calls>")
ERNIE: Final = replace(HERMES, dropped=_RESPONSE)
APERTUS: Final = _arrays("<|tools_prefix|>", "<|tools_suffix|>", names_are_keys=True)
GIGACHAT: Final = JsonForm(
    starts=("<|function_call|>", "function call<|role_sep|>\n"),
    head=_BLANKS,
    head_part=_BLANKS,
    dropped=("<|message_sep|>\n\n",),
)
LFM: Final = _python("<|tool_call_start|>", "<|tool_call_end|>")
OLMO: Final = _python("<function_calls>", "</function_calls>")
LLAMA4: Final = replace(
    _python("<|python_start|>", "<|python_end|>"), bare=re.compile(rf"\[\s*{_NAME}\(")
)
GEMMA: Final = _gemma("<|tool_call>", "<tool_call|>", '<|"|>')
FUNCTION_GEMMA: Final = _gemma("<start_function_call>", "<end_function_call>", "<escape>")
