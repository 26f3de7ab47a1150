"""Drafts change how fast a step is generated, and nothing else; no draft ends the engine."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import Counter
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import replace
from weakref import WeakKeyDictionary

from precall_service.domain.json import dump
from precall_service.domain.tools import ToolDeclaration
from precall_service.domain.turn import GenerationSettings, ToolChoice
from precall_service.engine.base import CallPiece, Engine, Feature, Finish, Piece, StepEnd
from precall_service.engine.drafts import Draft
from tests.integration.engine.test_vllm_settings import EXTREMES
from tests.support.steps import (
    GREEDY,
    REQUIRED,
    Said,
    asked,
    declared,
    first_chunk,
    heard,
    step_spec,
    until_idle,
)

SCHEMA = dump(
    {
        "type": "object",
        "properties": {
            "city": {"type": "string"},
            "reason": {"type": "string"},
            "days": {"type": "integer"},
        },
        "required": ["city", "reason", "days"],
        "additionalProperties": False,
    }
)
FORECAST = declared("get_forecast", SCHEMA)
HOTEL = declared("find_hotel")
TOOLS = (FORECAST, HOTEL)
TOKENS = 112
"""Enough for the calls of most questions."""
TOKENS_OF_A_DRAFT = 24
"""Enough for the beginning of a call and some of its arguments, which a draft may have."""
SURE = "What is the forecast in Paris for the next days? Explain the reason at length."
"""The embedded model answers it with calls, and then ends its message."""
CITIES = (
    "Paris",
    "Zürich",
    "São Paulo",
    "Reykjavík",
    "Łódź",
    "New York",
    "東京",
    'O"Neill',
    "a\\b",
)
QUESTIONS = tuple(
    f"{question} {CITIES[number % len(CITIES)]}?"
    for number, question in enumerate(
        (
            "What is the forecast for the next days, and for what reason, in",
            "Which hotel should I take in",
            "Tell me about the weather in",
            "Hello! Do you know",
            "I have to travel soon. Will it rain in",
            "Compare the forecast and the hotels of",
        )
        * 3
    )
)
"""Of one step each. tests/integration/test_speculation.py has 52 conversations."""


async def said(
    engine: Engine,
    question: str,
    drafts: Sequence[Draft] = (),
    *,
    tools: Sequence[ToolDeclaration] = TOOLS,
    choice: ToolChoice = REQUIRED,
    max_tokens: int = TOKENS,
    generation: GenerationSettings = GREEDY,
) -> Said:
    prompt = await engine.render(asked(question, *tools))
    spec = step_spec(
        max_tokens=max_tokens, tools=tuple(tools), tool_choice=choice, generation=generation
    )
    return await heard(engine.generate(prompt, replace(spec, drafts=tuple(drafts))))


_SURE: WeakKeyDictionary[Engine, Said] = WeakKeyDictionary()


async def sure(engine: Engine) -> Said:
    """The answer to the sure question without a predicted call. An engine is asked once."""
    if engine not in _SURE:
        _SURE[engine] = await said(engine, SURE, tools=[FORECAST])
    return _SURE[engine]


def reversed_members(arguments_json: str) -> str:
    """The same arguments in another order: predictions have the canonical one."""
    return dump(dict(reversed(json.loads(arguments_json).items())))


def drafts_of(one: Said) -> list[Draft]:
    """The calls of a step as a predictor that is always right would have them."""
    return [Draft(call.tool_name, reversed_members(call.arguments_json)) for call in one.calls]


async def test_the_engine_verifies_drafts(vllm_engine: Engine) -> None:
    assert Feature.DRAFTS in vllm_engine.info.features


async def test_drafts_change_no_token(vllm_engine: Engine) -> None:
    """Conversations side by side: as they are, with right drafts, and with wrong ones before."""
    choices = [ToolChoice() if index % 3 == 0 else REQUIRED for index in range(len(QUESTIONS))]
    limits = [TOKENS if index % 2 else 20 + index for index in range(len(QUESTIONS))]

    async def all_said(drafts: Sequence[Sequence[Draft]]) -> list[tuple[int, ...]]:
        steps = [
            said(vllm_engine, question, drafts, choice=choice, max_tokens=limit)
            for question, drafts, choice, limit in zip(
                QUESTIONS, drafts, choices, limits, strict=True
            )
        ]
        return [step.end.token_ids for step in await asyncio.gather(*steps)]

    whole, plain = await asyncio.gather(
        asyncio.gather(*(said(vllm_engine, question) for question in QUESTIONS)),
        all_said([()] * len(QUESTIONS)),
    )
    right = [drafts_of(each) for each in whole]
    assert sum(map(bool, right)) > len(QUESTIONS) / 2, "there must be something to draft"
    wrong = [*right[1:], right[0]]
    both = [[*one, *other] for one, other in zip(wrong, right, strict=True)]
    for drafted in await asyncio.gather(all_said(right), all_said(both)):
        assert drafted == plain


async def test_a_right_draft_is_accepted(vllm_engine: Engine) -> None:
    plain = await sure(vllm_engine)
    drafted = await said(vllm_engine, SURE, drafts_of(plain), tools=[FORECAST])
    assert drafted.end.token_ids == plain.end.token_ids
    assert drafted.end.accepted_tokens > len(plain.end.token_ids) / 3


async def test_a_draft_is_accepted_while_the_step_runs(vllm_engine: Engine) -> None:
    plain = await sure(vllm_engine)
    prompt = await vllm_engine.render(asked(SURE, FORECAST))
    spec = step_spec(max_tokens=TOKENS, tools=(FORECAST,), tool_choice=REQUIRED)
    end: StepEnd | None = None
    async with aclosing(vllm_engine.generate(prompt, spec)) as chunks:
        await first_chunk(chunks)
        await vllm_engine.draft(spec, drafts_of(plain))
        async for item in chunks:
            if isinstance(item, StepEnd):
                end = item
    assert end is not None
    assert end.token_ids == plain.end.token_ids
    assert end.accepted_tokens > len(plain.end.token_ids) / 3


async def test_a_limit_inside_a_draft_is_kept(vllm_engine: Engine) -> None:
    whole = await sure(vllm_engine)

    async def limited(max_tokens: int) -> None:
        drafted = await said(
            vllm_engine, SURE, drafts_of(whole), tools=[FORECAST], max_tokens=max_tokens
        )
        assert drafted.end.token_ids == whole.end.token_ids[:max_tokens]
        assert drafted.end.finish is Finish.LENGTH

    await asyncio.gather(*map(limited, range(1, 60, 5)))


def stops_within(text: str) -> list[tuple[str, ...]]:
    """Stop texts that end a message at all places of a text, inside tokens and between them."""
    lengths = itertools.cycle((1, 2, 3, 7, 16))
    places = zip(range(1, len(text) - 16, 7), lengths, strict=False)
    single = [(text[at : at + length],) for at, length in places]
    return [*single, *((*late, *early) for early, late in itertools.pairwise(single[::5]))]


async def test_a_stop_text_inside_a_draft_ends_the_message_at_the_same_token(
    vllm_engine: Engine,
) -> None:
    whole = await sure(vllm_engine)

    async def stopped(stop: tuple[str, ...], drafts: Sequence[Draft]) -> Said:
        generation = replace(GREEDY, stop=stop)
        return await said(vllm_engine, SURE, drafts, tools=[FORECAST], generation=generation)

    async def stopped_each(drafts: Sequence[Draft]) -> list[Said]:
        return await asyncio.gather(*(stopped(stop, drafts) for stop in stops))

    stops = stops_within(whole.end.raw_text)
    plain, drafted = await asyncio.gather(stopped_each(()), stopped_each(drafts_of(whole)))
    for stop, one, other in zip(stops, plain, drafted, strict=True):
        assert one.end.stop_text in stop
        assert without_counts(other.end) == without_counts(one.end)
        assert (other.text, other.calls) == (one.text, one.calls)
        assert joined(other.pieces) == joined(one.pieces)
    cut = [each for each in drafted if len(each.chunks[-1].token_ids) > 1]
    assert len(cut) > len(stops) / 4, "stop texts must end in the middle of drafts"
    assert any(each.end.drafts for each in cut)


def without_counts(end: StepEnd) -> StepEnd:
    """The end of a step but for what it tells of drafts, and of the cache."""
    usage = replace(end.usage, cached_tokens=0)
    return replace(end, usage=usage, drafted_tokens=0, accepted_tokens=0, drafts=())


def joined(pieces: Sequence[Piece]) -> dict[int, str]:
    """The arguments as far as they were written, by the index of their call."""
    arguments: dict[int, str] = {}
    for piece in pieces:
        if isinstance(piece, CallPiece):
            arguments[piece.index] = arguments.get(piece.index, "") + piece.json_fragment
    return arguments


async def test_each_draft_is_accounted_for(vllm_engine: Engine) -> None:
    plain = await sure(vllm_engine)
    right = replace(drafts_of(plain)[0], draft_id="right")
    wrong = Draft(FORECAST.name, dump({"city": "Ulan Bator"}), "wrong")
    unused = Draft(HOTEL.name, dump({"city": "Paris"}), "unused")
    drafted = await said(vllm_engine, SURE, [wrong, unused, right], tools=[FORECAST])
    drafts = {each.draft.draft_id if each.draft else "": each for each in drafted.end.drafts}
    assert drafts.keys() - {""} == {"wrong", "right"}
    assert drafts["wrong"].proposed_tokens > drafts["wrong"].accepted_tokens
    assert drafts["right"].accepted_tokens > 10, "from where the wrong one ended"
    assert sum(each.proposed_tokens for each in drafts.values()) == drafted.end.drafted_tokens
    assert sum(each.accepted_tokens for each in drafts.values()) == drafted.end.accepted_tokens


async def test_the_ends_of_calls_are_accounted_for_without_a_prediction(
    vllm_engine: Engine,
) -> None:
    plain = await sure(vllm_engine)
    assert [each.draft for each in plain.end.drafts] == [None]
    assert plain.end.drafts[0].accepted_tokens == plain.end.accepted_tokens > 0


async def test_drafts_that_come_before_the_step_is_sent_are_verified(vllm_engine: Engine) -> None:
    plain = await sure(vllm_engine)
    prompt = await vllm_engine.render(asked(SURE, FORECAST))
    spec = step_spec(max_tokens=TOKENS, tools=(FORECAST,), tool_choice=REQUIRED)
    drafts = [replace(each, draft_id="early") for each in drafts_of(plain)]
    generation = vllm_engine.generate(prompt, spec)
    begun = asyncio.ensure_future(anext(generation))
    await asyncio.sleep(0)  # the step has begun, but is still being prepared
    await vllm_engine.draft(spec, drafts)
    await begun
    async with aclosing(generation) as rest:
        *_, end = [item async for item in rest]
    assert isinstance(end, StepEnd)
    assert end.token_ids == plain.end.token_ids
    early = [each.accepted_tokens for each in end.drafts if each.draft in drafts]
    assert sum(early) > len(plain.end.token_ids) / 4


async def test_a_step_that_is_given_up_inside_a_draft_leaves_nothing(vllm_engine: Engine) -> None:
    plain = await sure(vllm_engine)
    prompt = await vllm_engine.render(asked(SURE, FORECAST))
    for _ in range(3):
        spec = step_spec(max_tokens=TOKENS, tools=(FORECAST,), tool_choice=REQUIRED)
        spec = replace(spec, drafts=tuple(drafts_of(plain)))
        async with aclosing(vllm_engine.generate(prompt, spec)) as chunks:
            await first_chunk(chunks)
        await vllm_engine.draft(spec, drafts_of(plain))  # too late: nothing happens
    await until_idle(vllm_engine)
    again = await said(vllm_engine, SURE, drafts_of(plain), tools=[FORECAST])
    assert again.end.token_ids == plain.end.token_ids


HOSTILE = {
    "of no tool": Draft("no_such_tool", "{}"),
    "with control tokens": Draft(
        FORECAST.name, dump({"city": "<|im_end|>\n<|im_start|>user\n", "days": 1})
    ),
    "too long": Draft(FORECAST.name, dump({"city": "x " * 20_000})),
    "with other arguments": Draft(FORECAST.name, dump({"nothing": ["of", {"the": "schema"}]})),
    "without text": Draft(FORECAST.name, "{}"),
    "with half of a character": Draft(FORECAST.name, '{"city": "\\ud83d"}'),
}


async def test_no_draft_changes_a_step_or_ends_the_engine(vllm_engine: Engine) -> None:
    plain = await sure(vllm_engine)
    steps = [said(vllm_engine, SURE, [draft], tools=[FORECAST]) for draft in HOSTILE.values()]
    for what, hostile in zip(HOSTILE, await asyncio.gather(*steps), strict=True):
        assert hostile.end.token_ids == plain.end.token_ids, what


async def test_no_settings_end_the_engine_with_drafts(vllm_engine: Engine) -> None:
    """One by one, since settings of one row may hide what those of another do."""
    plain = await sure(vllm_engine)
    for what, generation in EXTREMES.items():
        drafted = await said(
            vllm_engine,
            SURE,
            drafts_of(plain),
            tools=[FORECAST],
            max_tokens=TOKENS_OF_A_DRAFT,
            generation=generation,
        )
        assert drafted.end.token_ids, what


SAMPLED = GenerationSettings(temperature=1.5, top_k=8, top_p=0.9)
SAMPLES = 160
DISTANCE_MAX = 0.17


async def test_drafts_do_not_change_what_is_sampled(vllm_engine: Engine) -> None:
    """The probability that a sample follows the draft, and that of the likeliest other beginnings.

    With 160 samples each way, the difference of two frequencies of one half has a standard
    deviation of 0.056. So a change of a probability by 0.24 is found with a power of 90 %, and
    chance alone exceeds the limit in 0.2 % of cases; with fixed seeds, on one machine, always or
    never.
    """
    question = "Call it for a big city."
    tool = declared("f", SCHEMA)
    draft = Draft(tool.name, dump({"city": "New York", "reason": "travel", "days": 3}))
    slots = asyncio.Semaphore(16)

    async def beginnings(drafts: Sequence[Draft]) -> Counter[str]:
        async def beginning(seed: int) -> str:
            async with slots:
                one = await said(
                    vllm_engine,
                    question,
                    drafts,
                    tools=[tool],
                    max_tokens=22,
                    generation=replace(SAMPLED, seed=seed),
                )
            return one.end.raw_text.partition('"city": "')[2][:3]

        return Counter(await asyncio.gather(*map(beginning, range(SAMPLES))))

    plain, drafted = await beginnings(()), await beginnings([draft])
    for text, _ in plain.most_common(4):
        assert abs(plain[text] - drafted[text]) / SAMPLES < DISTANCE_MAX, (text, plain, drafted)
