"""Prompts that grow by a real model's tokens equal a rendering and are found in the cache."""

from __future__ import annotations

from precall_service.domain.messages import UserMessage
from precall_service.domain.turn import GenerationSettings
from precall_service.engine.base import Engine, Finish, Prompt
from precall_service.engine.vllm.token_prompt import own
from tests.support.engine_prompts import answers, appended, rendered_afresh, tokenizer
from tests.support.steps import (
    NONE,
    REQUIRED,
    Said,
    after,
    asked,
    declared,
    heard,
    step_spec,
)

QUESTION = asked(
    "What is the weather in Paris, and what time is it in Rome?",
    declared("get_weather"),
    declared("get_time"),
    system_prompt="You answer with what the functions say.",
)


def cached_at_least(engine: Engine, prompt: Prompt, said: Said) -> int:
    """The tokens in whole blocks of a step's prompt and output, without its last token.

    The last token was never an input of the model, so it is not in the cache.
    """
    block = engine.info.kv_block_tokens or 0
    return (len(own(prompt)) + len(said.end.token_ids) - 1) // block * block


async def test_a_turn_of_several_steps_grows_one_prompt(vllm_engine: Engine) -> None:
    engine, transcript = vllm_engine, QUESTION
    prompt = await engine.render(transcript)
    for _ in range(2):
        spec = step_spec(max_tokens=200, tools=transcript.tools, tool_choice=REQUIRED)
        said = await heard(engine.generate(prompt, spec))
        assert said.calls
        transcript = after(transcript, said.message)
        longer = await appended(engine, prompt, said, transcript, *answers(said))
        again = await heard(engine.generate(longer, step_spec(max_tokens=1)))
        assert again.end.usage.cached_tokens >= cached_at_least(engine, prompt, said)
        prompt, transcript = longer, after(transcript, *answers(said))
    spec = step_spec(max_tokens=60, tools=transcript.tools, tool_choice=NONE)
    said = await heard(engine.generate(prompt, spec))
    transcript = after(transcript, said.message)
    await appended(engine, prompt, said, transcript, UserMessage(text="Thank you"))
    assert rendered_afresh(engine) == 0


async def test_calls_have_the_template_s_form(vllm_engine: Engine) -> None:
    """A new rendering of the transcript therefore has the same text as the tokens."""
    prompt = await vllm_engine.render(QUESTION)
    spec = step_spec(max_tokens=200, tools=QUESTION.tools, tool_choice=REQUIRED)
    said = await heard(vllm_engine.generate(prompt, spec))
    whole = await vllm_engine.render(after(QUESTION, said.message, *answers(said)))
    assert said.end.raw_text in tokenizer(vllm_engine).decode(own(whole).token_ids)


async def test_a_step_cut_by_a_limit_is_continued(vllm_engine: Engine) -> None:
    chat = asked("Tell me a long story about a lighthouse.")
    prompt = await vllm_engine.render(chat)
    said = await heard(vllm_engine.generate(prompt, step_spec(max_tokens=40)))
    assert said.end.finish is Finish.LENGTH
    transcript = after(chat, said.message)
    longer = await appended(vllm_engine, prompt, said, transcript, UserMessage(text="Go on."))
    assert rendered_afresh(vllm_engine) == 0
    again = await heard(vllm_engine.generate(longer, step_spec(max_tokens=1)))
    assert again.end.usage.cached_tokens >= cached_at_least(vllm_engine, prompt, said)


async def test_a_stop_string_ends_a_step_and_is_removed(vllm_engine: Engine) -> None:
    chat = asked("Count from 1 to 9 with commas.")
    prompt = await vllm_engine.render(chat)
    free = await heard(vllm_engine.generate(prompt, step_spec(max_tokens=60)))
    stop = free.text[len(free.text) // 2 :][:3]
    generation = GenerationSettings(temperature=0.0, stop=(stop,))
    said = await heard(
        vllm_engine.generate(prompt, step_spec(max_tokens=60, generation=generation))
    )
    assert said.end.finish is Finish.STOP
    assert said.text == said.end.raw_text == free.text.split(stop, maxsplit=1)[0]
    transcript = after(chat, said.message)
    longer = await vllm_engine.append(prompt, said.end, transcript, [UserMessage(text="Go on.")])
    whole = await vllm_engine.render(after(transcript, UserMessage(text="Go on.")))
    decode = tokenizer(vllm_engine).decode
    assert decode(own(longer).token_ids) == decode(own(whole).token_ids)


async def test_the_same_seed_gives_the_same_text(vllm_engine: Engine) -> None:
    prompt = await vllm_engine.render(asked("Name an animal."))
    generation = GenerationSettings(temperature=1.0, seed=11)
    said = [
        await heard(vllm_engine.generate(prompt, step_spec(max_tokens=12, generation=generation)))
        for _ in range(2)
    ]
    assert said[0].end.token_ids == said[1].end.token_ids
