"""Appending to a prompt gives the tokens of a rendering of the whole transcript, for any texts."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.appending import answer, call, calling, sampled
from tests.support.prompt_renderers import STOP_TOKENS, prompt_renderer
from tests.support.steps import after, asked, declared

MARKS = [text for stops in STOP_TOKENS.values() for text in stops] + ["<tool_call>", "\n", "  "]
TEXTS = st.lists(st.text() | st.sampled_from(MARKS), max_size=4).map("".join)
CITIES = st.text()  # without end tokens, since sampling one ends the message
STEPS = st.lists(st.lists(st.tuples(CITIES, TEXTS), min_size=1, max_size=3), min_size=1, max_size=3)
"""The steps of a turn: for each step its calls, as pairs of an argument and an answer."""


@pytest.mark.parametrize("name", ["embedded", "thinking_chatml", "turns", "roles"])
@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(question=TEXTS, steps=STEPS)
def test_appended_prompts_equal_rendered_prompts(
    name: str, question: str, steps: list[list[tuple[str, str]]]
) -> None:
    asyncio.run(_check(name, question, steps))


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
