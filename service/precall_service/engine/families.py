"""Chooses vLLM's tool-call and reasoning parsers from what a model says about itself.

vLLM leaves both parsers to the operator (except the reasoning parser of gpt-oss); this table holds
what an operator would look up.

Owns: which model family goes with which parser names of the pinned vLLM.
Never: vLLM itself (a test compares these names with its tables), files or tokens.

The chat template decides where it can, because it shows the text that the model was trained to
write, whatever the model is called. The architecture decides for families whose template is not
Jinja, or whose marks mean another format in other families. Any other model gets no parser and a
reason: its tools are refused, because its calls would be lost in the text.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Parsers:
    """Parser names for vLLM's --tool-call-parser and --reasoning-parser, and why they fit."""

    tool: str | None
    reasoning: str | None
    reason: str


_BY_MODEL_TYPE: Final[Mapping[str, tuple[str, str | None]]] = {
    "cohere2_moe": ("cohere_command4", "cohere_command4"),
    "deepseek_v32": ("deepseek_v32", "deepseek_v3"),
    "deepseek_v4": ("deepseek_v4", "deepseek_v4"),
    "ernie4_5_moe": ("ernie45", "ernie45"),
    "gpt_oss": ("openai", "openai_gptoss"),
    "granitemoehybrid": ("granite4", None),
    "hunyuan_v1_moe": ("hunyuan_a13b", "hunyuan_a13b"),
    "internlm2": ("internlm", None),
    "jamba": ("jamba", None),
    "kimi_k3": ("kimi_k3", "kimi_k3"),
    "llama4": ("llama4_pythonic", None),
    "mimo_v2": ("mimo", "mimo"),
    "mimo_v2_flash": ("mimo", "mimo"),
    "nemotron_h": ("qwen3_coder", "nemotron_v3"),
    "step3p5": ("step3p5", "step3p5"),
}

# Marks of a tool call in a template, the most specific first: several formats wrap their calls in
# <tool_call>, so the mark inside it comes before the mark around it.
_TOOL_MARKS: Final[tuple[tuple[str, str], ...]] = (
    ("]<]minimax[>[", "minimax_m3"),
    ("<start_function_call>", "functiongemma"),
    ("<|function_call|>", "gigachat3"),
    ("'role': 'function call'", "gigachat3"),
    ("<tool_sep{}>", "hy_v3"),
    ("<longcat_tool_call>", "longcat"),
    ("<seed:tool_call>", "seed_oss"),
    ("<minimax:tool_call>", "minimax_m2"),
    ("<dots_function_call>", "dots"),
    ("<|tool_calls_section_begin|>", "kimi_k2"),
    ("<|tool_call_start|>", "lfm2"),
    ("<|tools_prefix|>", "apertus"),
    ("<|START_ACTION|>", "cohere_command3"),
    ("<|action_start|>", "internlm"),
    ("<|tool_call>", "gemma4"),
    ("<|tool_call|>", "granite"),
    ("<｜tool▁calls▁begin｜>", "deepseek_v31"),  # noqa: RUF001 the bars are part of the token
    ("<｜tool_calls_begin｜>", "step3"),  # noqa: RUF001 the bars are part of the token
    ("<function_calls>", "olmo3"),
    ("<arg_key>", "glm47"),
    ("<function=", "qwen3_coder"),
    ("[TOOL_CALLS]", "mistral"),
    ("<tool_call>", "hermes"),
    ("<|python_start|>", "llama4_pythonic"),
    ("<|python_tag|>", "llama3_json"),
    # Llama 3 templates contain neither mark, only the role of the messages that answer calls.
    ("<|start_header_id|>ipython", "llama3_json"),
    # xLAM-2 has no mark: its template only says how calls are written.
    ("make calls in a single JSON array", "xlam"),
)

# Forms that no parser of vLLM reads well, although one has the same mark: it would lose calls, or
# run them without their arguments.
_UNREAD_FORMS: Final[tuple[tuple[str, str | None, str], ...]] = (
    ("<function=", "<parameter=", "<function=name>{...}</function>, as Functionary does"),
    ("<tool_calls>[", None, "<tool_calls>[...]</tool_calls>, as Apriel does"),
    # vLLM's parser cuts values that hold a mark, also in CDATA, and leaves calls in the text.
    ('<function name="', None, "<function name=...><param name=...>, as MiniCPM5 does"),
)

_REASONING_MARKS: Final[tuple[tuple[str, str], ...]] = (
    ("<seed:think>", "seed_oss"),
    ("<think{}>", "hy_v3"),
    ("<mm:think>", "minimax_m3"),
    ("[THINK]", "mistral"),
    ("<|START_THINKING|>", "cohere_command3"),
    ("<|channel>thought", "gemma4"),
)

_PACKAGES: Final[Mapping[str, tuple[str, str]]] = {
    "cohere_command3": ("cohere_melody", "cohere-melody>=0.14.0"),
    "cohere_command4": ("cohere_melody", "cohere-melody>=0.14.0"),
}
"""The module that a parser imports and the package that has it, which vLLM does not install."""

REASONING_TEXTS: Final = (
    *("<think>", "</think>", "<seed:think>", "</seed:think>", "<mm:think>", "</mm:think>"),
    *("[THINK]", "[/THINK]", "<|START_THINKING|>", "<|END_THINKING|>"),
    *("<|channel>", "<channel|>", "[BEGIN FINAL RESPONSE]"),
)
"""What begins and ends reasoning. Templates look for it in texts, and some tokenizers have no
tokens for it."""

# These all use <think>; their parsers differ in who writes the opening mark and how reasoning is
# turned off.
_THINK_BY_TOOL_PARSER: Final[Mapping[str, str]] = {
    "deepseek_v31": "deepseek_v3",
    "glm47": "glm45",
    "kimi_k2": "kimi_k2",
    "minimax_m2": "minimax_m2",
    "olmo3": "olmo3",
    "step3": "step3",
}


def missing_package(parser: str) -> str | None:
    """The package that this parser needs if it is not installed."""
    module, package = _PACKAGES.get(parser, (None, None))
    return package if module and importlib.util.find_spec(module) is None else None


def choose_parsers(config: Mapping[str, object], chat_template: str | None) -> Parsers:
    """Returns the parsers for a model with this config.json and chat template."""
    model_type = str(config.get("model_type", ""))
    if model_type in _BY_MODEL_TYPE:
        tool, reasoning = _BY_MODEL_TYPE[model_type]
        return Parsers(tool=tool, reasoning=reasoning, reason=f"the model type is {model_type}")
    if not chat_template:
        return Parsers(
            tool=None,
            reasoning=None,
            reason=f"the model has no chat template, and its type ({model_type or 'none'}) does "
            "not tell how it writes tool calls",
        )
    for mark, other_form, form in _UNREAD_FORMS:
        if mark in chat_template and (other_form is None or other_form not in chat_template):
            return Parsers(
                tool=None,
                reasoning=None,
                reason=f"the chat template writes calls as {form}, which no parser of vLLM reads "
                "well",
            )
    tool, mark = _tool_parser(chat_template)
    return Parsers(
        tool=tool,
        reasoning=_reasoning_parser(chat_template, tool),
        reason=f"the chat template writes {mark}"
        if mark
        else "the chat template contains no known form of a tool call",
    )


def _tool_parser(template: str) -> tuple[str | None, str | None]:
    for mark, parser in _TOOL_MARKS:
        if mark in template:
            # DeepSeek V3 and R1 share this mark with V3.1, but fence the arguments as a code block.
            fenced = parser == "deepseek_v31" and "```json" in template
            return ("deepseek_v3" if fenced else parser), mark
    return None, None


def _reasoning_parser(template: str, tool: str | None) -> str | None:
    for mark, parser in _REASONING_MARKS:
        if mark in template:
            return parser
    if "<think>" not in template:
        return None
    if tool in _THINK_BY_TOOL_PARSER:
        return _THINK_BY_TOOL_PARSER[tool]
    # A template with this switch can turn reasoning off; the parser is told how it was set.
    if "enable_thinking" in template:
        return "qwen3"
    # This parser takes all text before </think> as reasoning. Where the model need not reason, it
    # would take whole answers and their calls; without a parser, the text also has the thoughts.
    return "deepseek_r1" if _always_reasons(template, tool) else None


def _always_reasons(template: str, tool: str | None) -> bool:
    """Whether the head of a message begins a thought, or the model is of DeepSeek's, which do."""
    _, head, written = template.rpartition("add_generation_prompt")
    return not head or "<think>" in written or tool == "deepseek_v3"
