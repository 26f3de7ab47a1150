"""Appending to a prompt gives the tokens of a rendering of the whole transcript, for any texts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from precall_service.domain.messages import AssistantMessage, Transcript, UserMessage
from tests.support.appending import answer, call, calling, sampled
from tests.support.prompt_renderers import STOP_TOKENS, prompt_renderer, tokenizer
from tests.support.steps import after, asked, declared

MARKS = [
    *(text for stops in STOP_TOKENS.values() for text in stops),
    *("<|im_start|>", "<think>", "</think>", "<tool_call>", "</tool_response>", "[INST]"),
    *(
        "\n",
        "  ",
        "<",
        "<|im_",
        "end|>",
        "/think",
        "/no_think",
        "<|im/think_end|>",
        '\\"',
        "\ud83d",
    ),
]
TEXTS = st.lists(st.text() | st.sampled_from(MARKS), max_size=6).map("".join)
STEPS = st.lists(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=3), min_size=1, max_size=3)
"""The steps of a turn: for each step its calls, as pairs of an argument and an answer."""


@pytest.mark.parametrize("name", ["embedded", "thinking_chatml", "turns", "roles", "removes"])
@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(question=TEXTS, steps=STEPS)
def test_appended_prompts_equal_rendered_prompts(
    name: str, question: str, steps: list[list[tuple[str, str]]]
) -> None:
    asyncio.run(_check(name, question, steps))


@pytest.mark.parametrize("name", [name for name in STOP_TOKENS if name != "headers"])
@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(texts=st.lists(TEXTS, min_size=10, max_size=10))
def test_texts_add_no_control_tokens(name: str, texts: list[str]) -> None:
    """The control tokens of a prompt are those of the same conversation with plain texts."""
    control = frozenset(tokenizer().get_added_vocab().values())

    async def control_tokens(texts: Sequence[str]) -> list[int]:
        prompt = await prompt_renderer(name).render(_conversation(texts))
        return [token_id for token_id in prompt.token_ids if token_id in control]

    async def check() -> None:
        written = await control_tokens([f"{each}{text}z" for each, text in enumerate(texts)])
        assert written == await control_tokens([f"{each}z" for each in range(len(texts))])

    asyncio.run(check())


def _conversation(texts: Sequence[str]) -> Transcript:
    """Two turns with a text in every place where a client, a tool or the model can put one."""
    system, question, city, result, thought, said, again, description, name, variable = texts
    tool = replace(
        declared("get_weather"),
        description=description,
        input_schema={"type": "object", "properties": {name: {"type": "string", "enum": [system]}}},
    )
    made = replace(
        call("get_weather", 1), arguments_json=json.dumps({"city": city, name: [{name: city}]})
    )
    return Transcript(
        messages=(
            UserMessage(text=question),
            calling(made, reasoning=thought),
            answer(made, result),
            AssistantMessage(text=said, reasoning=thought),
            UserMessage(text=again),
        ),
        system_prompt=system,
        tools=(tool,),
        template_variables={"documents": [{"text": variable}]},
    )


async def _check(name: str, question: str, steps: list[list[tuple[str, str]]]) -> None:
    renderer = prompt_renderer(name)
    transcript = asked(question, declared("get_weather"))
    prompt = await renderer.render(transcript)
    for step in steps:
        calls = [call("get_weather", number, city) for number, (city, _) in enumerate(step)]
        answers = [answer(made, text) for made, (_, text) in zip(calls, step, strict=True)]
        end = await sampled(name, transcript, calling(*calls))
        before, transcript = transcript, after(transcript, calling(*calls), *answers)
        prompt = await renderer.append(prompt, end, after(before, calling(*calls)), answers)
        assert prompt == await renderer.render(transcript)
