"""No settings that a client may send end the engine, also while prompts are computed in parts."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from precall_service.domain.turn import GenerationSettings
from precall_service.engine.base import Engine
from tests.support.steps import asked, heard, step_spec, until_idle

SEEDED = GenerationSettings(seed=1, temperature=0.8)
EVERYTHING = GenerationSettings(
    seed=2**63 - 1,
    temperature=2.0,
    top_p=1e-9,
    top_k=2**31 - 1,
    presence_penalty=-2.0,
    frequency_penalty=2.0,
    stop=tuple(f"{number:0>256}" for number in range(16)),
)
EXTREMES = {
    "seed and temperature": SEEDED,
    "the smallest temperature": replace(SEEDED, temperature=5e-324),
    "the smallest top_p": replace(SEEDED, top_p=5e-324),
    "one token": replace(SEEDED, top_k=1),
    "penalties": GenerationSettings(
        seed=0, temperature=1.0, presence_penalty=2.0, frequency_penalty=-2.0
    ),
    "everything": EVERYTHING,
    "everything, the other way": replace(
        EVERYTHING, seed=0, temperature=0.01, top_p=1.0, top_k=-1, presence_penalty=2.0
    ),
}


def text_of(words: int, *, first: str) -> str:
    return f"{first} {'word ' * words}"


async def test_a_seeded_prompt_that_is_computed_in_parts_is_answered(vllm_engine: Engine) -> None:
    """2,500 words exceed what vLLM computes at once; the seed must not depend on the parts."""
    prompt = await vllm_engine.render(asked(text_of(2500, first="Seeded")))
    said = [
        await heard(
            vllm_engine.generate(
                prompt, step_spec(max_tokens=8, generation=SEEDED, tenant="seeded")
            )
        )
        for _ in range(2)
    ]
    # The second time, the prefix cache has the prompt, which is then computed at once.
    assert said[0].end.usage.cached_tokens == 0 < said[1].end.usage.cached_tokens
    assert said[0].end.token_ids == said[1].end.token_ids


async def test_no_settings_end_the_engine(vllm_engine: Engine) -> None:
    """Side by side, with prompts that do not fit into one step together."""
    prompts = [await vllm_engine.render(asked(text_of(400, first=label))) for label in EXTREMES]
    async with asyncio.TaskGroup() as group:
        steps = [
            group.create_task(
                heard(vllm_engine.generate(prompt, step_spec(max_tokens=4, generation=generation)))
            )
            for prompt, generation in zip(prompts, EXTREMES.values(), strict=True)
        ]
    assert all(step.result().end.token_ids for step in steps)
    await until_idle(vllm_engine)


@pytest.mark.parametrize("generation", EXTREMES.values(), ids=EXTREMES)
async def test_no_settings_end_the_engine_alone(
    vllm_engine: Engine, generation: GenerationSettings
) -> None:
    prompt = await vllm_engine.render(asked("Hello"))
    said = await heard(vllm_engine.generate(prompt, step_spec(max_tokens=4, generation=generation)))
    assert said.end.token_ids
