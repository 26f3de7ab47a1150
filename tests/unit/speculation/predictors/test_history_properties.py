"""Any valid calls: what is proposed has the tool's schema, and stays with its tenant.

More properties, of odd and invalid calls, are in tests/properties/test_history.py.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace

import jsonschema
from hypothesis import given, settings
from hypothesis import strategies as st

from precall_service.cache.cache import ToolCache
from precall_service.cache.limits import CacheLimits
from precall_service.cache.memory import MemoryStore
from precall_service.domain.json import JsonObject, JsonValue, canonical, parse_object
from precall_service.domain.tools import ToolDeclaration
from precall_service.speculation.base import Lesson, PastCall, Proposal, Situation
from precall_service.speculation.predictors.history.model import WEIGHTS_MAX, TenantModel
from precall_service.speculation.predictors.history.predictor import (
    HistoryLimits,
    HistoryPredictor,
)
from precall_service.speculation.predictors.history.weights import Age, Choice, Pointers
from tests.support.clock import ManualClock, settle
from tests.support.predictors import named, situation, tool

WORDS = st.sampled_from(["one", "Two", "red fox", "/a/b.txt", "7", "#x", "ann@example.org"])
NUMBERS = st.integers(-3, 12)
LEAVES: Mapping[str, tuple[JsonObject, st.SearchStrategy[JsonValue]]] = {
    "text": ({"type": "string"}, WORDS),
    "count": ({"type": "integer"}, NUMBERS),
    "share": ({"type": "number"}, NUMBERS | st.sampled_from([0.5, 2.25])),
    "sure": ({"type": "boolean"}, st.booleans()),
    "unit": ({"type": "string", "enum": ["m", "km"]}, st.sampled_from(["m", "km"])),
    "maybe": ({"type": ["string", "null"]}, WORDS | st.none()),
    "names": ({"type": "array", "items": {"type": "string"}}, st.lists(WORDS, max_size=12)),
    "counts": ({"type": "array", "items": {"type": "integer"}}, st.lists(NUMBERS, max_size=12)),
}
"""The kinds of arguments: their schemas, and valid values."""
RESULTS = st.recursive(
    WORDS | NUMBERS | st.booleans() | st.none(),
    lambda inner: (
        st.lists(inner, max_size=10) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3)
    ),
    max_leaves=8,
)
NAMES = ("find_one", "send")


@st.composite
def schemas(draw: st.DrawFn, depth: int = 1) -> JsonObject:
    """A closed schema of an object; an object in it has such a schema, too."""
    kinds = draw(st.lists(st.sampled_from(sorted(LEAVES)), max_size=4, unique=True))
    properties: dict[str, JsonValue] = {kind: LEAVES[kind][0] for kind in kinds}
    if depth and draw(st.booleans()):
        properties["inner"] = draw(schemas(depth=depth - 1))
    required = [name for name in properties if draw(st.booleans())]
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


def valid(schema: JsonObject) -> st.SearchStrategy[JsonObject]:
    """Values of such a schema."""
    properties, required = schema["properties"], schema["required"]
    assert isinstance(properties, Mapping)
    assert isinstance(required, Sequence)
    found: dict[str, st.SearchStrategy[JsonValue]] = {}
    for name, inner in properties.items():
        assert isinstance(inner, Mapping)
        found[name] = LEAVES[name][1] if name in LEAVES else valid(inner)
    return st.fixed_dictionaries(
        {name: each for name, each in found.items() if name in required},
        optional={name: each for name, each in found.items() if name not in required},
    )


@st.composite
def declared(draw: st.DrawFn) -> dict[str, ToolDeclaration]:
    """Tools of the same names, with any such schemas."""
    return named(*(replace(tool(name), input_schema=draw(schemas())) for name in NAMES))


def texts(values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.lists(values | values.map("'{}'".format), max_size=4).map(" ".join)


@st.composite
def lessons(draw: st.DrawFn, tools: Mapping[str, ToolDeclaration]) -> list[Lesson]:
    """Turns of a few steps, with valid calls."""
    found: list[Lesson] = []
    for _ in range(draw(st.integers(1, 4))):
        calls = [
            PastCall(
                tool_name=name,
                arguments=draw(valid(tools[name].input_schema)),
                result_json=json.dumps(draw(RESULTS)),
            )
            for name in draw(st.lists(st.sampled_from(NAMES), max_size=3))
        ]
        text = draw(texts(WORDS))
        for step in range(len(calls)):
            before = situation(text, *calls[:step], tools=tools)
            found.append(Lesson(before=before, calls=(calls[step],)))
    return found


def taught(known: Sequence[Lesson]) -> TenantModel:
    model = TenantModel(HistoryLimits().half_life_calls)
    for lesson in known:
        model.learn(model.observe(lesson.before, lesson.calls))
    return model


def check_schemas(found: Sequence[Proposal], tools: Mapping[str, ToolDeclaration]) -> None:
    for each in found:
        arguments = parse_object(each.arguments_json)
        jsonschema.validate(arguments, dict(tools[each.tool_name].input_schema))
        canonical(arguments)


@given(st.data())
@settings(max_examples=60)
def test_proposals_have_the_schema_of_their_tool(data: st.DataObject) -> None:
    tools = data.draw(declared())
    known = data.draw(lessons(tools))
    model = taught(known)
    for lesson in known:
        check_schemas(model.propose(lesson.before), tools)


@given(st.data())
@settings(max_examples=60)
def test_proposals_have_the_schema_that_their_tool_has_now(data: st.DataObject) -> None:
    tools, new = data.draw(declared()), data.draw(declared())
    known = data.draw(lessons(tools))
    model = taught(known)
    for lesson in known:
        check_schemas(model.propose(replace(lesson.before, tools=new)), new)


TENANTS = ("quux", "zork")


def owned(lesson: Lesson, tenant: str) -> Lesson:
    """The lesson with the tenant's name in each text that the tenant sees or says."""

    def marked(value: JsonValue) -> JsonValue:
        if isinstance(value, str):
            return f"{tenant}{value}"
        if isinstance(value, Mapping):
            return {name: marked(each) for name, each in value.items()}
        return [marked(each) for each in value] if isinstance(value, Sequence) else value

    def of(call: PastCall) -> PastCall:
        arguments = marked(call.arguments)
        assert isinstance(arguments, Mapping)
        result = json.dumps(marked(json.loads(call.result_json or "null")))
        return replace(call, arguments=arguments, result_json=result)

    text = " ".join(f"{tenant}{word}" for word in lesson.before.text.split())
    before = replace(
        lesson.before, tenant=tenant, text=text, calls=tuple(map(of, lesson.before.calls))
    )
    return Lesson(before=before, calls=tuple(map(of, lesson.calls)))


FREE = named(*(replace(tool(name), input_schema={"type": "object"}) for name in NAMES))
OPEN: JsonObject = {
    "type": "object",
    "properties": {kind: LEAVES[kind][0] for kind in ("text", "maybe", "names")},
    "required": [],
}
SHARED = named(*(replace(tool(name), input_schema=OPEN) for name in NAMES))


async def all_of(predictor: HistoryPredictor, where: Situation) -> list[Proposal]:
    return [each async for each in predictor.propose(where)]


@given(st.data())
@settings(max_examples=25)
async def test_no_value_reaches_another_tenant(data: st.DataObject) -> None:
    """Both tenants share a store, before a restart and after it."""
    known = [
        (tenant, owned(lesson, tenant))
        for tenant in TENANTS
        for lesson in data.draw(lessons(SHARED))
    ]
    mixed = data.draw(st.permutations(known))
    store = MemoryStore(ManualClock(), bytes_max=1 << 20, nodes_max=8, changes_max=8)

    async def check(predictor: HistoryPredictor) -> None:
        for owner, lesson in known:
            found = await all_of(predictor, lesson.before)
            other = TENANTS[owner == TENANTS[0]]
            assert not any(other in each.arguments_json.lower() for each in found)

    async with ToolCache(store, CacheLimits()) as cache:
        async with HistoryPredictor(cache) as predictor:
            for _, lesson in mixed:
                predictor.learn(lesson)
            await settle()
            await check(predictor)
        async with HistoryPredictor(cache) as predictor:
            for tenant in TENANTS:
                await all_of(predictor, situation(tenant=tenant))
            await settle()
            await check(predictor)
            empty = situation("go", tools=FREE, tenant="eve")
            assert await all_of(predictor, empty) == []


class Kept:
    """Records of one tenant, in memory."""

    def __init__(self) -> None:
        self.records: list[bytes] = []

    async def remember(self, tenant: str, record: bytes) -> None:
        self.records.append(record)

    async def recall(self, tenant: str, after: int) -> Sequence[tuple[int, bytes]]:
        return list(enumerate(self.records, 1))[after : after + 5]


@given(st.data())
@settings(max_examples=25)
async def test_learning_goes_on_after_a_restart_as_if_there_was_none(data: st.DataObject) -> None:
    tools = data.draw(declared())
    first, second = data.draw(lessons(tools)), data.draw(lessons(tools))
    expected = taught([*first, *second])
    kept = Kept()
    for known in (first, second):
        async with HistoryPredictor(kept) as predictor:
            await all_of(predictor, situation(tools=tools))
            await settle()
            for lesson in known:
                predictor.learn(lesson)
            await settle()
            found = [await all_of(predictor, each.before) for each in second]
    assert found == [expected.propose(each.before) for each in second]


EXAMPLES = st.lists(
    st.tuples(
        st.lists(st.integers(0, 30), min_size=1, max_size=6, unique=True),
        st.dictionaries(st.integers(0, 30), st.floats(-1, 1), max_size=6),
    ),
    max_size=60,
)


@given(EXAMPLES, st.integers(1, 20), st.integers(1, 50))
@settings(max_examples=60)
def test_tables_are_bounded(
    examples: list[tuple[list[int], dict[int, float]]], weights_max: int, half_life_calls: int
) -> None:
    age = Age(half_life_calls)
    pointers, choice = Pointers(age, weights_max), Choice(age, weights_max)
    for keys, gradients in examples:
        pointers.learn(keys, next(iter(gradients.values()), 0.0))
        choice.learn([(key, 1.5) for key in keys], gradients)
        age.tick()
        assert len(pointers.table) <= weights_max
        assert pointers.squares.keys() == pointers.table.keys()
        assert len(choice) == sum(map(len, choice.table.values())) <= weights_max
        assert choice.squares.keys() == choice.table.keys()


@given(st.data())
@settings(max_examples=20)
def test_a_model_is_bounded(data: st.DataObject) -> None:
    tools = data.draw(declared())
    model = taught(data.draw(lessons(tools)) * 5)
    assert model.weights <= WEIGHTS_MAX
