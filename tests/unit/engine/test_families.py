"""Parsers are chosen from a model's own files, and exist in the vLLM that is installed."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from precall_service.engine import families
from precall_service.engine.base import EngineStartError
from precall_service.engine.families import choose_parsers
from precall_service.engine.vllm.config import Device, VllmConfig
from tests.support import prompt_renderers

QWEN3 = "{%- if enable_thinking %}<think>{% endif %}<tool_call>\n{'name':"
QWEN3_CODER = "<tool_call>\n<function=name>\n<parameter=x>"
HEAD = "{% if add_generation_prompt %}<|assistant|>"
DEEPSEEK_MARK = "<｜tool▁calls▁begin｜>"  # noqa: RUF001 the bars are part of the token


@pytest.mark.parametrize(
    ("config", "template", "tool", "reasoning"),
    [
        ({"model_type": "llama"}, "<tool_call>\n{", "hermes", None),
        ({"model_type": "qwen3"}, QWEN3, "hermes", "qwen3"),
        ({"model_type": "qwen3_moe"}, QWEN3_CODER, "qwen3_coder", None),
        ({"model_type": "qwen2"}, "<tool_call></think>", "hermes", None),
        ({"model_type": "qwen2"}, "<think>\n", None, "deepseek_r1"),
        ({"model_type": "llama"}, "<|python_tag|>", "llama3_json", None),
        ({"model_type": "llama4"}, "<|python_start|>", "llama4_pythonic", None),
        ({"model_type": "mistral3"}, "[TOOL_CALLS][THINK]", "mistral", "mistral"),
        ({"model_type": "gpt_oss"}, "<|channel|>", "openai", "openai_gptoss"),
        ({"model_type": "deepseek_v3"}, DEEPSEEK_MARK + "```json", "deepseek_v3", None),
        ({"model_type": "deepseek_v3"}, DEEPSEEK_MARK + "<think>", "deepseek_v31", "deepseek_v3"),
        (
            {"model_type": "deepseek_v3"},
            DEEPSEEK_MARK + "```json<think>",
            "deepseek_v3",
            "deepseek_r1",
        ),
        ({"model_type": "deepseek_v32"}, None, "deepseek_v32", "deepseek_v3"),
        ({"model_type": "glm4_moe"}, "<tool_call><arg_key><think>", "glm47", "glm45"),
        (
            {"model_type": "deepseek_v3"},
            "<|tool_calls_section_begin|><think>",
            "kimi_k2",
            "kimi_k2",
        ),
        ({"model_type": "granite"}, "<|tool_call|>", "granite", None),
        (
            {"model_type": "granite"},
            "<|tool_call|>{% if thinking %}<think>" + HEAD,
            "granite",
            None,
        ),
        ({"model_type": "lfm2"}, "<|tool_call_start|><think>" + HEAD, "lfm2", None),
        ({"model_type": "qwen2"}, "<tool_call>" + HEAD + "<think>\n", "hermes", "deepseek_r1"),
        (
            {"model_type": "qwen2"},
            DEEPSEEK_MARK + "```json<think>" + HEAD,
            "deepseek_v3",
            "deepseek_r1",
        ),
        (
            {"model_type": "minimax_m3"},
            "]<]minimax[>[<tool_call><mm:think>",
            "minimax_m3",
            "minimax_m3",
        ),
        ({"model_type": "llama"}, "<function=f>{}</function><|python_tag|>", None, None),
        ({"model_type": "mistral"}, "<tool_calls>[{'name':<tool_call>[TOOL_CALLS]", None, None),
        ({"model_type": "granitemoehybrid"}, "<tool_call>", "granite4", None),
        ({"model_type": "gemma4"}, "<|tool_call><|channel>thought", "gemma4", "gemma4"),
        ({"model_type": "gigachat3"}, "<|function_call|>", "gigachat3", None),
        ({"model_type": "gigachat3"}, "{'role': 'function call'}", "gigachat3", None),
        ({"model_type": "hy_v3"}, "'<tool_sep{}>' '<think{}>'", "hy_v3", "hy_v3"),
        ({"model_type": "seed_oss"}, "<seed:tool_call><seed:think>", "seed_oss", "seed_oss"),
    ],
)
def test_a_family_is_known_by_its_type_or_its_template(
    config: dict[str, object], template: str | None, tool: str | None, reasoning: str | None
) -> None:
    parsers = choose_parsers(config, template)

    assert (parsers.tool, parsers.reasoning) == (tool, reasoning)


def test_an_unknown_template_gives_no_parser_and_says_why() -> None:
    parsers = choose_parsers({"model_type": "gpt2"}, "{{ messages }}")

    assert (parsers.tool, parsers.reasoning) == (None, None)
    assert parsers.reason == "the chat template contains no known form of a tool call"


@pytest.mark.parametrize(
    ("template", "form"),
    [
        ("<function=f>{}</function>", "Functionary"),
        ("<tool_calls>[<tool_call>", "Apriel"),
        ('<function name="f"><param name="a">1</param></function>', "MiniCPM5"),
    ],
)
def test_a_form_like_that_of_another_family_is_refused_with_the_reason(
    template: str, form: str
) -> None:
    parsers = choose_parsers({}, template)

    assert parsers.tool is None
    assert form in parsers.reason
    assert "no parser of vLLM reads" in parsers.reason


def test_a_model_without_a_template_gives_no_parser_and_says_why() -> None:
    parsers = choose_parsers({"model_type": "gpt2"}, None)

    assert parsers.tool is None
    assert "no chat template" in parsers.reason
    assert "gpt2" in parsers.reason


@pytest.mark.parametrize(("found", "missing"), [(None, "cohere-melody"), ("a spec", None)])
def test_a_package_that_a_parser_needs_is_missed_before_a_model_is_loaded(
    monkeypatch: pytest.MonkeyPatch, found: str | None, missing: str | None
) -> None:
    prompt_renderers.model_config()  # first, since it imports vLLM as precall does
    from precall_service.engine.vllm.parts import chosen_parsers

    config = VllmConfig(
        model="command",
        model_name="command",
        device=Device.CPU,
        chat_template="<|START_ACTION|><|START_THINKING|>",
    )
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: found)  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]
    if missing is None:
        assert chosen_parsers(config, prompt_renderers.model_config()).tool == "cohere_command3"
    else:
        with pytest.raises(EngineStartError, match=missing):
            chosen_parsers(config, prompt_renderers.model_config())


def names_in_vllm(package: str) -> set[str]:
    """Returns the parser names that vLLM registers, read from its source: importing it is slow."""
    spec = importlib.util.find_spec("vllm")
    assert spec is not None
    assert spec.origin is not None
    source = (Path(spec.origin).parent / package / "__init__.py").read_text()
    return set(re.findall(r'^    "([\w.-]+)": \(', source, flags=re.MULTILINE))


def test_every_tool_parser_is_one_of_vllm() -> None:
    named = {tool for tool, _ in families._BY_MODEL_TYPE.values()}
    named |= {parser for _, parser in families._TOOL_MARKS} | {"deepseek_v3"}

    assert named <= names_in_vllm("tool_parsers")


def test_every_reasoning_parser_is_one_of_vllm() -> None:
    named = {reasoning for _, reasoning in families._BY_MODEL_TYPE.values() if reasoning}
    named |= {parser for _, parser in families._REASONING_MARKS}
    named |= set(families._THINK_BY_TOOL_PARSER.values()) | {"qwen3", "deepseek_r1"}

    assert named <= names_in_vllm("reasoning")
