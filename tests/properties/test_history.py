"""The history predictor, with any lessons: it never raises, crosses tenants, or exceeds bounds."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from precall_service.domain.json import JsonObject, canonical, parse_object
from precall_service.speculation.base import Lesson, PastCall, Proposal, Situation
from precall_service.speculation.predictors.history.model import (
    PROPOSALS_MAX,
    WEIGHTS_MAX,
    TenantModel,
)
from precall_service.speculation.predictors.history.predictor import HistoryPredictor
from precall_service.speculation.predictors.history.records import (
    RECORD_BYTES_MAX,
    decode,
    encode,
)
from precall_service.speculation.predictors.history.values import arguments_of, assembled
from tests.support.clock import settle
from tests.support.predictors import call, named, situation, tool

NAMES = ("alpha", "beta", "gamma_delta")
TOOLS = named(*(tool(name, "Does it, or not.", a="string", b="integer") for name in NAMES))

ODD = st.sampled_from(
    ["NaN", "Infinity", "-0", "1e999", "\ud800", "\0", "'", '"', "\u202e", "/", "//", ".", "#", ""]
)
TEXTS = st.text(max_size=60) | ODD | st.sampled_from(["'one'", "go to /a/b.txt", "May 32, 2024"])
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | TEXTS
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=10) | st.dictionaries(TEXTS, inner, max_size=5),
    max_leaves=12,
)
ARGUMENTS = st.dictionaries(st.sampled_from(["a", "b", "c"]) | TEXTS, VALUES, max_size=4)
RESULTS = st.none() | st.sampled_from(
    ['{"id": "one", "list": [1, 2.5, {"x": null}]}', '"one"', "not JSON", "[" * 9000, "NaN", ""]
)
CALLS = st.builds(
    PastCall,
    tool_name=st.sampled_from(NAMES) | st.just("unknown"),
    arguments=ARGUMENTS,
    result_json=RESULTS,
)


@st.composite
def lessons(draw: st.DrawFn, tenants: Sequence[str] = ("ann",)) -> Lesson:
    before = situation(
        draw(TEXTS),
        *draw(st.lists(CALLS, max_size=3)),
        tenant=draw(st.sampled_from(tenants)),
        tools=TOOLS,
        earlier=tuple(draw(st.lists(CALLS, max_size=2))),
    )
    return Lesson(before=before, calls=tuple(draw(st.lists(CALLS, max_size=3))))


def taught(known: Sequence[Lesson]) -> TenantModel:
    model = TenantModel(1000)
    for lesson in known:
        model.learn(model.observe(lesson.before, lesson.calls))
    return model


def check(found: Sequence[Proposal], where: Situation) -> None:
    assert len(found) <= PROPOSALS_MAX
    confidences = [each.confidence for each in found]
    assert confidences == sorted(confidences, reverse=True)
    for each in found:
        assert each.tool_name in where.tools
        assert 0.0 <= each.confidence <= 1.0
        canonical(parse_object(each.arguments_json))


@given(st.lists(lessons(), max_size=8))
@settings(max_examples=50)
def test_any_lesson_can_be_learned(known: list[Lesson]) -> None:
    model = taught(known)
    for lesson in known:
        check(model.propose(lesson.before), lesson.before)


@given(st.lists(lessons(), min_size=1, max_size=8))
@settings(max_examples=40)
def test_the_kept_records_make_the_same_model(known: list[Lesson]) -> None:
    model, again = TenantModel(1000), TenantModel(1000)
    for lesson in known:
        step = model.observe(lesson.before, lesson.calls)
        record = encode(step)
        if record is None:
            continue
        assert len(record) <= RECORD_BYTES_MAX
        model.learn(step)
        kept = decode(record)
        assert kept is not None
        assert kept == step
        again.learn(kept)
    for lesson in known:
        assert again.propose(lesson.before) == model.propose(lesson.before)


@given(st.lists(lessons(("ann", "bob", "eve")), max_size=8))
@settings(max_examples=25)
async def test_tenants_learn_as_if_they_were_alone(known: list[Lesson]) -> None:
    predictor = HistoryPredictor()
    for lesson in known:
        predictor.learn(lesson)
    for tenant in ("ann", "bob", "eve"):
        alone = HistoryPredictor()
        own = [lesson for lesson in known if lesson.before.tenant == tenant]
        for lesson in own:
            alone.learn(lesson)
        for lesson in known:
            where = replace(lesson.before, tenant=tenant)
            found = [each async for each in predictor.propose(where)]
            assert found == [each async for each in alone.propose(where)]
            assert own or not found


class Kept:
    def __init__(self) -> None:
        self.records: list[bytes] = []

    async def remember(self, tenant: str, record: bytes) -> None:
        self.records.append(record)

    async def recall(self, tenant: str, after: int) -> Sequence[tuple[int, bytes]]:
        return list(enumerate(self.records, 1))[after : after + 5]


@given(st.lists(lessons(), min_size=1, max_size=6))
@settings(max_examples=20)
async def test_a_restart_changes_no_proposal(known: list[Lesson]) -> None:
    kept = Kept()
    async with HistoryPredictor(kept) as predictor:
        await settle()
        for lesson in known:
            predictor.learn(lesson)
            await settle()
        expected = [[one async for one in predictor.propose(each.before)] for each in known]
    async with HistoryPredictor(kept) as predictor:
        async for _ in predictor.propose(known[0].before):
            pass
        await settle()
        assert expected == [[one async for one in predictor.propose(each.before)] for each in known]


@given(ARGUMENTS)
def test_arguments_are_put_together_as_they_were(arguments: JsonObject) -> None:
    leaves = arguments_of(arguments)
    if leaves is not None:
        assert repr(assembled(leaves)) == repr(arguments)  # NaN is not equal to itself


def big(kind: str) -> tuple[Situation, PastCall]:
    """A situation that is as large as a client can make it."""
    long = "x' \"'y " * 5000
    deep = parse_object('{"a":' * 80 + "1" + "}" * 80)
    wide = {f"k{number}": f"value {number}" for number in range(400)}
    arguments = {"wide": wide, "deep": deep, "few": {f"a{n}": f"v{n}" for n in range(14)}}[kind]
    made = replace(call("alpha", wide), arguments=arguments)
    calls = [
        replace(made, tool_name=NAMES[n % 3], result_json=call("x", wide).result_json)
        for n in range(40)
    ]
    return situation(long, *calls, tools=TOOLS, earlier=tuple(calls)), made


@pytest.mark.parametrize("kind", ["wide", "deep", "few"])
def test_the_largest_situations_take_bounded_time_and_memory(kind: str) -> None:
    where, made = big(kind)
    model = TenantModel(1000)
    worst = 0.0
    for number in range(30):
        calls = [replace(made, tool_name=NAMES[n % 3]) for n in range(20)]
        start = time.thread_time()
        step = model.observe(replace(where, text=f"{number} {where.text}"), calls)
        model.learn(step)
        model.propose(where)
        worst = max(worst, time.thread_time() - start)
        record = encode(step)
        assert record is None or len(record) <= RECORD_BYTES_MAX
    assert worst < 0.25  # about a fifth of it on an idle machine
    assert model.weights <= WEIGHTS_MAX
