"""Spellings of control tokens are broken; all other text stays as it is."""

from __future__ import annotations

import functools
import unicodedata
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from precall_service.domain.messages import AssistantMessage, ToolCall, Transcript
from tests.support import prompt_renderers

if TYPE_CHECKING:  # importing vLLM is slow, and it reads environment variables that are set later
    from precall_service.engine.vllm.plain_text import PlainTexts

ADDED = {
    **dict.fromkeys(["<|im_end|>", "<|im_start|>", "]~b]", "[INST]", "<s>"], True),
    **dict.fromkeys(["<tool_call>", "</tool_call>", '<|"|>', "<h1>", "</b>", "<td>"], False),
    **dict.fromkeys(["\n\n", "  ", "▁▁", "->", "assistant", "고양이"], False),
}
"""Tokens that tokenizers add, each with whether it is marked as special."""


@pytest.fixture
def texts() -> PlainTexts:
    return _texts("Has <td> and {{ content | replace('/think', '') }}")


def _texts(template: str, normalizer: Any = None) -> PlainTexts:
    prompt_renderers.model_config()  # first, since it imports vLLM as precall does
    from precall_service.engine.vllm.plain_text import plain_texts

    tokenizer = SimpleNamespace(
        all_special_tokens=["<s>"],
        added_tokens_decoder={
            number: SimpleNamespace(content=text, special=special)
            for number, (text, special) in enumerate(ADDED.items())
        },
        get_added_vocab=lambda: {text: number for number, text in enumerate(ADDED)},
        backend_tokenizer=SimpleNamespace(normalizer=normalizer),
    )
    return plain_texts(tokenizer, template)


@pytest.mark.parametrize(
    ("written", "seen"),
    [
        ("<|im_end|>", "< |im_end|>"),
        ("a<|im_end|><|im_start|>b", "a< |im_end|>< |im_start|>b"),
        ("<<|im_end|>", "<< |im_end|>"),
        ("]~b]~b]", "] ~b] ~b]"),
        ("[INST]", "[ INST]"),
        ("<s>", "< s>"),
        ("<tool_call>\n{}\n</tool_call>", "< tool_call>\n{}\n< /tool_call>"),
        ('<|"|>', '< |"|>'),
        ("</think>", "< /think>"),
        ("<td>", "< td>"),
        ("<|im_/thinkend|>", "<|im_/ thinkend|>"),
        ("ｘ<|im_end|>é", "ｘ< |im_end|>é"),  # noqa: RUF001 other letters are kept
    ],
)
def test_a_spelling_is_broken(texts: PlainTexts, written: str, seen: str) -> None:
    assert texts.of(written) == seen
    assert texts.of(seen) == seen


@pytest.mark.parametrize(
    "written",
    [
        "",
        "<h1>A page</h1> with <b>tags</b>",
        "if a -> b:\n\n  return  '▁▁'",
        "assistant: 고양이",
        "<|im_end",
        "im_end|>",
        "[inst]",
        "quick /think",
        "é ｘ 👩‍👩‍👧",  # noqa: RUF001 other letters are kept
    ],
)
def test_other_text_stays(texts: PlainTexts, written: str) -> None:
    assert texts.of(written) == written


def test_half_a_surrogate_pair_becomes_text_that_tokenizers_take(texts: PlainTexts) -> None:
    assert texts.of("a\ud83db") == "a?b"


def test_a_spelling_that_appears_when_the_tokenizer_normalises() -> None:
    normalizer = SimpleNamespace(normalize_str=functools.partial(unicodedata.normalize, "NFKC"))
    texts = _texts("", normalizer)
    assert texts.of("＜|im_end|＞ ｘ") == "< |im_end|> x"  # noqa: RUF001
    assert texts.of("ｘ") == "ｘ"  # noqa: RUF001


@pytest.mark.parametrize(
    ("written", "seen"),
    [
        (r'{"a": "\u003c|im_end|\u003e"}', '{"a": "< |im_end|>"}'),
        (r'{"<s>": [{"b": "[INST]"}]}', '{"< s>": [{"b": "[ INST]"}]}'),
        (r'{"a": "\ud83d"}', '{"a": "?"}'),
        ('{"a":1.50}', '{"a":1.50}'),
        ("[INST] is no JSON\\", "[ INST] is no JSON\\"),
    ],
)
def test_arguments_are_read_first(texts: PlainTexts, written: str, seen: str) -> None:
    call = ToolCall(call_id="1", tool_name="f", arguments_json=written)
    transcript = Transcript(messages=(AssistantMessage(text="", tool_calls=(call,)),))
    (message,) = texts.transcript(transcript).messages
    assert isinstance(message, AssistantMessage)
    assert message.tool_calls[0].arguments_json == seen


def test_thousands_of_tokens_and_spellings_are_found_in_one_pass() -> None:
    prompt_renderers.model_config()
    from precall_service.engine.vllm.plain_text import PlainTexts

    control = [f"<unused{number}>" for number in range(6000)]
    texts = PlainTexts(control, template="", normalize=str)
    assert texts.of("<unused5999>" * 100_000) == "< unused5999>" * 100_000
