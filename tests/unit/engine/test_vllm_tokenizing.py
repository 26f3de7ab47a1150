"""A text that is far too long for the context window is refused before it is tokenised to its end.

The tokenizer is the embedded model's. The context window is that of its configuration.
"""

from __future__ import annotations

import threading
from typing import Any

import pytest

from precall_service.domain.messages import Transcript, UserMessage
from precall_service.engine.prompt_length import PromptTooLongError
from precall_service.engine.vllm.tokenizing import Tokenizing
from tests.support.prompt_renderers import base_renderer, prompt_renderer, token_ids
from tests.support.steps import declared

MEGABYTE = 1 << 20
SLICE = 64 << 10
KINDS = {
    "words": "river stone cloud lamp ",
    "one word": "a",
    "digits": "7",
    "blanks": " ",
    "other scripts": "\U0001f600é ",
    "control tokens": "<|im_end|>",
}


def repeated(kind: str, characters: int) -> str:
    return (KINDS[kind] * characters)[:characters]


class Counting:
    """A renderer that counts the characters that it tokenises."""

    def __init__(self) -> None:
        self._renderer = base_renderer()
        self.model_config: Any = self._renderer.model_config
        self.characters = 0

    async def tokenize_prompts_async(self, prompts: Any, params: Any) -> Any:
        self.characters += sum(len(prompt["prompt"]) for prompt in prompts)
        return await self._renderer.tokenize_prompts_async(prompts, params)


def counting() -> tuple[Tokenizing, Counting, int]:
    """What tokenises, its renderer, and the context window."""
    renderer = Counting()
    made: Any = renderer
    return Tokenizing(made), renderer, renderer.model_config.max_model_len


@pytest.mark.parametrize("kind", sorted(KINDS.keys() - {"blanks"}))
async def test_a_megabyte_is_refused_as_soon_as_that_is_certain(kind: str) -> None:
    tokenizing, renderer, limit = counting()
    text = repeated(kind, MEGABYTE)
    with pytest.raises(PromptTooLongError) as caught:
        await tokenizing.fitting(text)
    told = int(caught.value.metadata["prompt_tokens"])
    assert limit <= told <= len(token_ids(text))
    assert f"at least {told} tokens" in caught.value.message
    assert renderer.characters <= 4 * SLICE


@pytest.mark.parametrize("kind", KINDS)
async def test_a_text_that_fits_is_tokenised_as_a_whole(kind: str) -> None:
    tokenizing, _, limit = counting()
    text = repeated(kind, MEGABYTE if kind == "blanks" else MEGABYTE // 8)
    fitting = text[: len(text) * limit // len(token_ids(text))]
    tokens = token_ids(fitting)
    assert limit - 100 < len(tokens) < limit + 100
    assert await tokenizing.fitting(fitting) == tokens


async def test_a_text_that_is_a_little_too_long_is_left_to_the_turn() -> None:
    tokenizing, _, limit = counting()
    text = repeated("words", 60_000)
    tokens = token_ids(text)
    assert limit < len(tokens) < 2 * limit
    assert await tokenizing.fitting(text) == tokens


async def test_short_texts_are_tokenised_once() -> None:
    tokenizing, renderer, limit = counting()
    text = repeated("words", max(4 * limit, SLICE))
    await tokenizing.fitting(text)
    assert renderer.characters == len(text)


async def test_a_text_that_is_no_prompt_may_be_of_any_length() -> None:
    """The text of a predicted call is compared with what the model writes, and may be long."""
    tokenizing, renderer, limit = counting()
    text = repeated("words", 3 * SLICE)
    assert len(await tokenizing.token_ids(text)) > 2 * limit
    assert renderer.characters == len(text)


# Where a prompt is prepared.


class Threads:
    """Texts that note the thread in which they are looked through."""

    def __init__(self) -> None:
        self.seen: set[int] = set()

    def transcript(self, transcript: Transcript) -> Transcript:
        self.seen.add(threading.get_ident())
        return transcript


@pytest.mark.parametrize(
    ("transcript", "elsewhere"),
    [
        (Transcript(messages=(UserMessage(text="Hi."),)), False),
        (Transcript(messages=(UserMessage(text="word " * 5000),)), True),
        (Transcript(messages=(UserMessage(text="Hi."),), system_prompt="word " * 5000), True),
        (
            Transcript(
                messages=(UserMessage(text="Hi."),),
                tools=tuple(declared(f"tool_{number}") for number in range(8)),
            ),
            True,
        ),
    ],
    ids=["short", "long message", "long system prompt", "several tools"],
)
async def test_long_transcripts_are_prepared_off_the_loop(
    transcript: Transcript, elsewhere: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    renderer = prompt_renderer("embedded")
    await renderer.render(Transcript(messages=(UserMessage(text="Hi."),)))
    threads = Threads()
    monkeypatch.setattr(renderer, "_texts", threads)
    await renderer.render(transcript)
    assert (threading.get_ident() not in threads.seen) is elsewhere
