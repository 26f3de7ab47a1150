"""Parts of values and texts, and where arguments may come from."""

from __future__ import annotations

import pytest

from precall_service.domain.json import JsonObject, JsonValue
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
        ("c", True, True),
        ("c", None, True),
    ],
)
def test_what_fits_a_schema(value: JsonValue, schema: JsonValue, *, expected: bool) -> None:
    assert fits(value, schema) is expected


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
        assert pointers.value(1) > 5

    def test_a_choice_is_bounded(self) -> None:
        choice = Choice(Age(1000), 50)
        for _ in range(10):
            choice.learn(((1, 1.0),), {7: 1.0})
        for feature in range(2, 200):
            choice.learn(((feature, 1.0),), dict.fromkeys(range(5), 0.01))
        assert len(choice) <= 50
        assert choice.scores(((1, 1.0),), (7,))[7] > 5

    def test_rebasing_changes_nothing(self) -> None:
        age = Age(1)
        pointers, choice = Pointers(age, 10), Choice(age, 10)
        for _ in range(20):
            pointers.learn((1,), 0.5)
            choice.learn(((1, 2.0),), {7: 0.5})
            age.tick()
        before = pointers.value(1), choice.scores(((1, 1.0),), (7,))
        pointers.rebase()
        choice.rebase()
        age.scale = 1.0
        assert (pointers.value(1), choice.scores(((1, 1.0),), (7,))) == before


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
