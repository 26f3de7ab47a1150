"""vLLM's own speculative decoding changes no answer, alone and beside drafts of predicted calls.

The draft model is the embedded model itself, whose proposals are nearly always right.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass

import pytest
import pytest_asyncio

from precall_service.domain.json import JsonValue
from precall_service.domain.turn import GenerationSettings, ToolChoice
from precall_service.engine.base import Draft, Engine, Feature
from tests.integration.engine.test_vllm_drafts import (
    FORECAST,
    QUESTIONS,
    SURE,
    TOKENS,
    TOKENS_OF_A_DRAFT,
    drafts_of,
    said,
)
from tests.integration.engine.test_vllm_settings import EXTREMES
from tests.support.engine_keeper import EngineKeeper, embedded_config, started
from tests.support.steps import REQUIRED, asked, heard, step_spec

NGRAM: JsonValue = {
    "method": "ngram",
    "num_speculative_tokens": 5,
    "prompt_lookup_max": 4,
    "prompt_lookup_min": 2,
}
DRAFT_MODEL: JsonValue = {
    "method": "draft_model",
    "model": embedded_config().model,
    "num_speculative_tokens": 3,
}
CONTEXT_TOKENS = 1024
ROOM = 12
SOME = QUESTIONS[:4]
STOPS = ("e", ", ", "the")
FREE = ToolChoice()
LIMITS = range(1, 60, 14)


@dataclass(frozen=True, slots=True)
class Answers:
    """What an engine answers: the tokens of steps, and the texts of those that stop texts end."""

    steps: list[tuple[int, ...]]
    stopped: list[tuple[tuple[int, ...], str, str]]
    limited: list[tuple[int, ...]]


async def answers(
    engine: Engine, drafts: Sequence[Sequence[Draft]], sure: Sequence[Draft]
) -> Answers:
    """Side by side: steps with and without calls, answers that stop texts end, calls cut short."""
    steps = [
        said(
            engine,
            question,
            staged,
            choice=FREE if index % 3 == 0 else REQUIRED,
            max_tokens=TOKENS if index % 2 else 20 + index,
        )
        for index, (question, staged) in enumerate(zip(SOME, drafts, strict=True))
    ]
    generations = [GenerationSettings(temperature=0.0, stop=(stop,)) for stop in STOPS]
    texts = [said(engine, SURE, tools=(), choice=FREE, generation=each) for each in generations]
    cut = [said(engine, SURE, sure, tools=[FORECAST], max_tokens=most) for most in LIMITS]
    answered, stopped, limited = await asyncio.gather(
        asyncio.gather(*steps), asyncio.gather(*texts), asyncio.gather(*cut)
    )
    return Answers(
        [step.end.token_ids for step in answered],
        [(step.end.token_ids, step.end.raw_text, step.end.stop_text) for step in stopped],
        [step.end.token_ids for step in limited],
    )


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def predicted(engine_keeper: EngineKeeper) -> list[list[Draft]]:
    """The calls of each step, and of one more, as a predictor that is always right has them."""
    engine = await engine_keeper.engine()
    steps = [said(engine, question) for question in SOME]
    sure = said(engine, SURE, tools=[FORECAST])
    return [drafts_of(step) for step in await asyncio.gather(*steps, sure)]


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def plain(engine_keeper: EngineKeeper) -> Answers:
    """The answers of the engine without a method, and without drafts."""
    return await answers(await engine_keeper.engine(), [()] * len(SOME), ())


@pytest_asyncio.fixture(loop_scope="session")
async def method_engine(
    method: JsonValue, plain: Answers, predicted: list[list[Draft]], no_shared_engine: None
) -> AsyncGenerator[Engine]:
    """An engine with a method; the shared one has answered."""
    config = embedded_config(
        dtype="float32", max_model_len=CONTEXT_TOKENS, speculative_config=method
    )
    engine = await started(config)
    yield engine
    await engine.close()


async def to_the_end_of_the_context(engine: Engine) -> None:
    """A step that begins nearer to the end of the context than a step may verify tokens."""
    empty = await engine.render(asked(""))
    context_tokens = engine.info.context_tokens_max
    assert empty.tokens is not None
    assert context_tokens is not None
    prompt = await engine.render(asked(" word" * (context_tokens - empty.tokens - ROOM)))
    assert prompt.tokens == context_tokens - ROOM
    step = await heard(engine.generate(prompt, step_spec(max_tokens=ROOM)))
    assert step.end.token_ids


async def test_without_a_method_there_are_calls_to_predict(
    plain: Answers, predicted: list[list[Draft]]
) -> None:
    """While the shared engine runs: the tests of methods then need it no more."""
    assert all(plain.steps)
    *steps, sure = predicted
    assert any(steps)
    assert sure


@pytest.mark.parametrize("method", [NGRAM, DRAFT_MODEL], ids=["ngram", "draft_model"])
async def test_a_method_changes_no_token_alone_or_beside_drafts(
    plain: Answers, predicted: list[list[Draft]], method_engine: Engine
) -> None:
    assert Feature.DRAFTS in method_engine.info.features
    *right, sure = predicted
    assert await answers(method_engine, [()] * len(SOME), ()) == plain
    assert await answers(method_engine, right, sure) == plain
    wrong = [*right[1:], right[0]]
    both = [[*one, *other] for one, other in zip(wrong, right, strict=True)]
    assert await answers(method_engine, both, sure) == plain

    drafted = await said(method_engine, SURE, sure, tools=[FORECAST])
    alone = await said(method_engine, SURE, tools=[FORECAST])
    assert drafted.end.token_ids == alone.end.token_ids
    assert drafted.end.accepted_tokens > len(drafted.end.token_ids) / 3
    for generation in EXTREMES.values():
        extreme = await said(
            method_engine,
            SURE,
            sure,
            tools=[FORECAST],
            max_tokens=TOKENS_OF_A_DRAFT,
            generation=generation,
        )
        assert extreme.end.token_ids
    await to_the_end_of_the_context(method_engine)
