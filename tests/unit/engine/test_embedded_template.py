"""The embedded model's chat template writes exactly what the engine makes the model write."""

from __future__ import annotations

import itertools
import json
from typing import Any

import jinja2.sandbox
import pytest

from precall_service.engine.embedded import embedded_chat_template

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Weather now.",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string", "title": "City"}},
                "required": ["city"],
            },
        },
    },
    {"type": "function", "function": {"name": "ping"}},
]
QUESTION = {"role": "user", "content": "What is the weather in Rome?"}


def call(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    return {"id": "c", "type": "function", "function": {"name": name, "arguments": arguments}}


def tojson(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def render(
    messages: list[dict[str, Any]],
    *,
    tools: list[dict[str, Any]] | None = None,
    generate: bool = False,
    **variables: bool,
) -> str:
    """Renders as transformers does: its own settings and its own tojson."""
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = tojson
    template = environment.from_string(embedded_chat_template())
    return template.render(
        messages=messages, tools=tools, add_generation_prompt=generate, **variables
    )


def test_without_tools_it_is_plain_chatml() -> None:
    assert render([QUESTION], generate=True) == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\nWhat is the weather in Rome?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


@pytest.mark.parametrize("role", ["system", "developer"])
def test_a_system_message_replaces_the_default_one(role: str) -> None:
    rendered = render([{"role": role, "content": "Be brief."}, QUESTION], tools=TOOLS)

    assert rendered.startswith("<|im_start|>system\nBe brief.\n\n")
    assert rendered.count("Be brief.") == 1
    assert (
        '\n{"name": "get_weather", "description": "Weather now.", '
        '"parameters": {"city": {"type": "string"}}}\n'
    ) in rendered
    assert '\n{"name": "ping", "description": "", "parameters": {}}\n</tools>' in rendered


def test_calls_are_written_as_the_grammar_writes_them() -> None:
    answer = {
        "role": "assistant",
        "content": None,
        "tool_calls": [call("get_weather", {"city": "Île", "days": 2}), call("ping", {})],
    }

    assert render([QUESTION, answer], tools=TOOLS).endswith(
        "<|im_start|>assistant\n"
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Île", "days": 2}}\n'
        "</tool_call>"
        '<tool_call>\n{"name": "ping", "arguments": {}}\n</tool_call><|im_end|>\n'
    )


def test_results_of_one_step_are_one_message() -> None:
    results = [{"role": "tool", "content": "18"}, {"role": "tool", "content": "pong"}]

    assert render([QUESTION, *results, QUESTION], tools=TOOLS, generate=True).endswith(
        "<|im_start|>user\n<tool_response>\n18\n</tool_response>\n"
        "<tool_response>\npong\n</tool_response><|im_end|>\n"
        "<|im_start|>user\nWhat is the weather in Rome?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_more_messages_only_add_text() -> None:
    messages = [
        QUESTION,
        {"role": "assistant", "content": "", "tool_calls": [call("ping", {})]},
        {"role": "tool", "content": "pong"},
        {"role": "assistant", "content": "It rains."},
    ]

    texts = [render(messages[:count], tools=TOOLS) for count in range(1, len(messages) + 1)]

    assert all(longer.startswith(text) for text, longer in itertools.pairwise(texts))


THOUGHTS = [
    QUESTION,
    {
        "role": "assistant",
        "content": None,
        "reasoning_content": "I ping.\n",
        "tool_calls": [call("ping", {})],
    },
    {"role": "tool", "content": "pong"},
    {"role": "assistant", "content": "\n\nIt rains.", "reasoning_content": "I know."},
]


def test_with_thinking_the_model_begins_with_a_thought() -> None:
    rendered = render([QUESTION], tools=TOOLS, generate=True, enable_thinking=True)

    assert rendered.endswith("<|im_start|>assistant\n<think>\n")
    # Each assistant message of the two examples has a thought too.
    assert rendered.count("<|im_start|>assistant\n<think>\n") == 5
    assert rendered.count("\n</think>\n\n") == 4


def test_thoughts_are_written_as_the_model_writes_them() -> None:
    assert render(THOUGHTS, tools=TOOLS, enable_thinking=True).endswith(
        "<|im_start|>assistant\n<think>\nI ping.\n</think>\n\n"
        '<tool_call>\n{"name": "ping", "arguments": {}}\n</tool_call><|im_end|>\n'
        "<|im_start|>user\n<tool_response>\npong\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n<think>\nI know.\n</think>\n\nIt rains.<|im_end|>\n"
    )


def test_more_messages_with_thoughts_only_add_text() -> None:
    texts = [
        render(THOUGHTS[:count], tools=TOOLS, enable_thinking=True)
        for count in range(1, len(THOUGHTS) + 1)
    ]

    assert all(longer.startswith(text) for text, longer in itertools.pairwise(texts))


def test_without_thinking_there_are_no_thoughts() -> None:
    off = render(THOUGHTS, tools=TOOLS, generate=True, enable_thinking=False)

    assert off == render(THOUGHTS, tools=TOOLS, generate=True)
    assert "think" not in off
