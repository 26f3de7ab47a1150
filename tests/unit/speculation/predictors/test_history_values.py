"""Parts of values and texts, and where arguments may come from."""

from __future__ import annotations

import pytest

from precall_service.domain.json import JsonObject, JsonValue, parse
from precall_service.speculation.predictors.history import values
from precall_service.speculation.predictors.history.schema import fits, part_schema
from precall_service.speculation.predictors.history.text import reading, words_of
from precall_service.speculation.predictors.history.values import (
    ITEMS_MAX,
    PARTS_MAX,
    RESULT_CHARS_MAX,
    TRANSFORMATIONS,
    arguments_of,
    number_of,
    parts_of,
    read,
    transformed,
)
from precall_service.speculation.predictors.history.weights import Age, Choice, Pointers


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Open 'a b' and \"c\"", [("quoted", "a b"), ("quoted", "c")]),
        ("It's John's cat", []),
        (
            "\u201ca\u201d or \u2018b\u2019 or `c`",
            [("quoted", "a"), ("quoted", "b"), ("quoted", "c")],
        ),
        ("1,200 of -3.5", [("number", 1200), ("number", -3.5)]),
        ("in src/main.py now", [("path", "src/main.py")]),
        ("mail a.b@example.org.", [("email", "a.b@example.org")]),
        ("see https://a.example/b?c=d.", [("url", "https://a.example/b?c=d")]),
        ("tag #new for @ann", [("tag", "#new"), ("tag", "@ann")]),
        ("on April 3rd, 2026", [("day", "2026-04-03")]),
        ("on 3 of April 2026", [("day", "2026-04-03")]),
        ("on 2026-04-03", [("day", "2026-04-03")]),
        ("on May 32, 2026", [("day", "May 32, 2026")]),
        ("sell AAPL from New York", [("capitals", "AAPL"), ("name", "New York")]),
        ("Visit New York", [("opening", "Visit New York"), ("name", "New York")]),
    ],
)
def test_spans_of_a_text(text: str, expected: list[tuple[str, JsonValue]]) -> None:
    found = [(span.kind, span.value) for span in reading(text).spans]
    assert [each for each in found if each[0] in {kind for kind, _ in expected}] == expected
    assert expected or all(kind in ("word", "name", "opening") for kind, _ in found)


def test_words_are_equal_without_case_and_endings() -> None:
    assert words_of("Sending messages") == words_of("send_message") == words_of("sendMessage")


@pytest.mark.parametrize(
    ("text", "number"),
    [("1", 1), ("-1.5", -1.5), ("1,000", 1000), ("NaN", None), ("1e999", None), ("x", None)],
)
def test_numbers(text: str, number: float | None) -> None:
    assert number_of(text) == number


@pytest.mark.parametrize("text", ["not JSON", "[" * 5000, '"\\ud800"', "NaN", "", None])
def test_an_unreadable_result_has_no_parts(text: str | None) -> None:
    assert read(text) is None


def test_a_long_result_is_not_read() -> None:
    assert read('"' + "x" * RESULT_CHARS_MAX + '"') is None


def test_the_parts_of_a_value_are_bounded() -> None:
    value = {f"k{number}": list(range(100)) for number in range(100)}
    assert len(list(parts_of(value))) <= PARTS_MAX
    paths = [part.path for part in parts_of(list(range(100)))]
    assert paths == [(), *((index,) for index in range(ITEMS_MAX)), (-1,)]


def test_arguments_have_leaves() -> None:
    arguments: JsonObject = {"a": {"b": [1, {}]}, "c": [], "d": list(range(ITEMS_MAX + 1))}
    assert arguments_of(arguments) == [
        (("a", "b", 0), 1),
        (("a", "b", 1), {}),
        (("c",), []),
        (("d",), list(range(ITEMS_MAX + 1))),
    ]


def test_transformations_apply_to_anything() -> None:
    kinds: list[JsonValue] = [None, True, 1, 1.5, "", "a", "/a/b.c", "x" * 5000, [], {}, "."]
    for value in kinds:
        for number in TRANSFORMATIONS:
            changed = transformed(value, number)
            assert changed is None or changed != value


@pytest.mark.parametrize(
    ("value", "schema", "expected"),
    [
        ("a", {"type": "string"}, True),
        (1, {"type": "string"}, False),
        (1.0, {"type": "integer"}, True),
        (1.5, {"type": "integer"}, False),
        (True, {"type": "integer"}, False),
        (True, {"type": "number"}, False),
        (True, {"type": "boolean"}, True),
        ([], {"type": "array"}, True),
        ("a", {"type": "array"}, False),
        ({}, {"type": "object"}, True),
        ("a", {"enum": ["a", "b"]}, True),
        ("c", {"enum": ["a", "b"]}, False),
        ("c", {"type": ["string", "null"]}, True),
        (None, {"type": ["string", "null"]}, True),
        (1, {"type": ["string", "null"]}, False),
        (["a", "b"], {"type": "array", "items": {"type": "string"}}, True),
        (["a", 1], {"type": "array", "items": {"type": "string"}}, False),
        ({}, {"type": "object", "required": ["a"]}, False),
        ({"a": 1}, {"properties": {"a": {"type": "string"}}}, False),
        ({"b": 1}, {"properties": {"a": {}}, "additionalProperties": False}, False),
        ({"b": 1}, {"additionalProperties": {"type": "string"}}, False),
        ({"b": 1}, {"patternProperties": {"b": {}}, "additionalProperties": False}, True),
        ({"a": {"b": [1]}}, {"properties": {"a": {"required": ["c"]}}}, False),
        ("c", {"type": "unknown"}, True),
        ("c", True, True),
        ("c", False, False),
        ("c", None, True),
    ],
)
def test_what_fits_a_schema(value: JsonValue, schema: JsonValue, *, expected: bool) -> None:
    assert fits(value, schema) is expected


def test_a_deep_value_is_not_looked_through() -> None:
    value, schema = read("[" * 900 + "]" * 900), parse("{}")
    for _ in range(900):
        schema = {"type": "array", "items": schema}
    assert fits(value, schema)


def test_the_schema_of_a_part() -> None:
    schema: JsonObject = {"properties": {"a": {"items": {"properties": {"b": {"type": "null"}}}}}}
    assert part_schema(schema, ("a", 3, "b")) == {"type": "null"}
    assert part_schema(schema, ("a", "x")) is None
    assert part_schema({}, ("a",)) is None


class TestWeights:
    def test_large_weights_survive_small_ones(self) -> None:
        pointers = Pointers(Age(1000), 10)
        for _ in range(10):
            pointers.learn((1,), 1.0)
        for key in range(2, 200):
            pointers.learn((key,), 0.01)
        assert len(pointers.table) == 10
        assert pointers.squares.keys() == pointers.table.keys()
        assert pointers.value(1) > 2

    def test_a_choice_is_bounded(self) -> None:
        choice = Choice(Age(1000), 50)
        for _ in range(10):
            choice.learn(((1, 1.0),), {7: 1.0})
        for feature in range(2, 200):
            choice.learn(((feature, 1.0),), dict.fromkeys(range(5), 0.01))
        assert len(choice) == sum(map(len, choice.table.values())) <= 50
        assert choice.squares.keys() == choice.table.keys()
        assert choice.scores(((1, 1.0),), (7,))[7] > 2

    def test_a_feature_with_too_many_outcomes_is_forgotten(self) -> None:
        choice = Choice(Age(1000), 50)
        choice.learn(((1, 1.0),), dict.fromkeys(range(60), 0.5))
        assert len(choice) == len(choice.table) == len(choice.squares) == 0

    def test_steps_get_smaller(self) -> None:
        pointers, choice = Pointers(Age(1000), 10), Choice(Age(1000), 10)
        weights: list[tuple[float, float]] = [(0.0, 0.0)]
        for _ in range(5):
            pointers.learn((1,), 0.5)
            choice.learn(((1, 1.0),), {7: 0.5, 8: -0.1})
            weights.append((pointers.value(1), score(choice, 7)))
        for before, between, after in zip(weights, weights[1:], weights[2:], strict=False):
            for one, two, three in zip(before, between, after, strict=True):
                assert two - one > three - two > 0

    def test_steps_grow_again_with_age(self) -> None:
        """A feature that was wrong long ago learns like a new one."""
        age = Age(10)
        pointers, choice = Pointers(age, 10), Choice(age, 10)
        for _ in range(20):
            pointers.learn((1,), 0.5)
            choice.learn(((1, 1.0),), {7: 0.5})
        for _ in range(200):
            age.tick()
        for key in (1, 2):
            pointers.learn((key,), 0.5)
            choice.learn(((key, 1.0),), {7: 0.5})
        assert pointers.value(1) == pytest.approx(pointers.value(2), rel=0.01)
        assert score(choice, 7) == pytest.approx(choice.scores(((2, 1.0),), (7,))[7], rel=0.01)

    def test_rebasing_changes_nothing(self) -> None:
        """Neither what was learned, nor how learning goes on."""
        age, plain = Age(2), Age(2)
        rebased = Pointers(age, 10), Choice(age, 10)
        expected = Pointers(plain, 10), Choice(plain, 10)
        for number in range(40):
            for pointers, choice in (rebased, expected):
                pointers.learn((1,), 0.5)
                choice.learn(((1, 2.0),), {7: 0.5, 8: -0.5})
            age.tick()
            plain.tick()
            if number % 10 == 9:
                for each in rebased:
                    each.rebase()
                age.scale = 1.0
            assert rebased[0].value(1) == pytest.approx(expected[0].value(1))
            for outcome in (7, 8):
                assert score(rebased[1], outcome) == pytest.approx(score(expected[1], outcome))


def score(choice: Choice, outcome: int) -> float:
    """The score of an outcome where only feature 1 is there."""
    return choice.scores(((1, 1.0),), (outcome,))[outcome]


def test_the_numbers_of_transformations_are_part_of_the_format() -> None:
    """A new one is added at the end; otherwise FORMAT has to change."""
    assert [transformed("/Ab c/D.e", number) for number in TRANSFORMATIONS[1:]] == [
        "/ab c/d.e",
        "/AB C/D.E",
        "/Ab C/D.E",
        "Ab c/D.e",
        "#/Ab c/D.e",
        "@/Ab c/D.e",
        "D.e",
        "/Ab c",
        "Ab c",
        "/Ab c/D",
        "e",
        "/ab_c/d.e",
        "/Ab c/D.e.",
        None,
    ]
    assert transformed(5, TRANSFORMATIONS[-1]) == "5"
    assert values.transformed("5", TRANSFORMATIONS[-1]) == 5
