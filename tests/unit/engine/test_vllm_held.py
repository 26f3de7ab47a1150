"""What a grammar cannot hold is left out alone, and told with its path."""

from __future__ import annotations

from typing import Any

import pytest

from precall_service.engine.vllm.grammars import held_by_grammar
from precall_service.engine.vllm.held import ENUM_BYTES_MAX, ITEMS_MAX
from tests.support.grammars import derivable


def of(**properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def loosened(schema: dict[str, Any]) -> list[str]:
    return [each.path for each in held_by_grammar(schema).loosened]


@pytest.mark.parametrize(
    ("part", "path", "allowed", "still_refused"),
    [
        ({"type": "string", "pattern": "\\bfoo\\b"}, "pattern", "bar", 1),
        ({"type": "string", "pattern": "(?=a)a"}, "pattern", "b", None),
        ({"type": "string", "maxLength": 5000}, "maxLength", 'a "quote"\n' * 600, 1),
        ({"type": "string", "pattern": "^a+$", "maxLength": 2}, "maxLength", "aaa", "b"),
        ({"type": "string", "format": "date-time"}, "format", "now", 1),
        ({"type": "integer", "multipleOf": 5}, "multipleOf", 3, "3"),
        ({"type": "integer", "maximum": 2**63}, "maximum", 2**70, "a"),
        ({"type": "integer", "minimum": 0.5}, "minimum", -1, 0.5),
        (
            {"type": "array", "items": {"type": "null"}, "uniqueItems": True},
            "uniqueItems",
            [None, None],
            [1],
        ),
        (
            {"type": "array", "items": {"type": "null"}, "maxItems": 1000},
            "maxItems",
            [None] * (ITEMS_MAX + 1),
            [1],
        ),
        ({"type": "string", "not": {"const": "a"}}, "not", "a", 1),
        ({"enum": ["x" * 100] * (ENUM_BYTES_MAX // 99)}, "enum", "y", None),
        (
            {"type": "object", "patternProperties": {"^a": {}}, "additionalProperties": False},
            "patternProperties",
            {"b": 1},
            1,
        ),
        (
            {"type": "object", "additionalProperties": True, "propertyNames": {"maxLength": 1}},
            "propertyNames",
            {"ab": 1},
            1,
        ),
    ],
)
def test_one_keyword_is_loosened(
    part: dict[str, Any], path: str, allowed: Any, still_refused: Any
) -> None:
    schema = of(a=part, b={"type": "integer"})
    assert loosened(schema) == [f"$.properties.a.{path}"]
    assert derivable(schema, [{"a": allowed, "b": 1}]) == [True]
    assert derivable(schema, [{"a": allowed, "b": "x"}, {"a": allowed}]) == [False, False]
    if still_refused is not None:
        assert derivable(schema, [{"a": still_refused, "b": 1}]) == [False]


@pytest.mark.parametrize(
    "value",
    [
        "Montréal",
        "ÿb",
        "é1",
        "½ff",
        "naïve café",
        "日本",
        'a"b',
        "a\\b",
        "a\nb",
        "\x1f",
        "\x7f",
        "\\u007f",
        "\\\x7f",
        "😀",
    ],
)
def test_every_character_comes_out_whole(value: str) -> None:
    """Those from U+0080 to U+00FF took the hexadecimal digit after them with them."""
    schema = of(**{value: {"enum": [value]}, "b": {"const": {value: [value]}}})
    assert derivable(schema, [{value: value, "b": {value: [value]}}]) == [True]


HELD: list[tuple[dict[str, Any], list[Any], list[Any]]] = [
    ({"type": "string", "minLength": 1, "maxLength": 3}, ["a", '"\n\\'], ["", "abcd"]),
    ({"type": "string", "minLength": 2}, ["ab", "é" * 99], ["a"]),
    ({"type": "array"}, [[], [1, "a", {"b": []}]], [1]),
    ({"type": "object"}, [{}, {"a": [None]}], [1]),
    ({"type": "object", "properties": {}}, [{}], [{"invented": 1}]),
    (
        {"type": "array", "prefixItems": [{"type": "integer"}, True], "items": False},
        [[1, "a"]],
        [["a", 1]],
    ),
    ({"$ref": "#/$defs/Tree"}, [{"below": [{"below": []}]}], [{"below": [1]}]),
    ({"anyOf": [{"type": "string", "pattern": "^a+$"}, {"enum": ["bé"]}]}, ["aa", "bé"], ["b"]),
    ({"type": ["string", "null"], "pattern": "^a$"}, ["a", None], ["b", 1]),
    (
        {"type": "object", "properties": {"pattern": {"type": "string"}, "enum": {"const": 1}}},
        [{"pattern": "x", "enum": 1}],
        [{"pattern": 1}],
    ),
    ({}, [1, None, "a", [{}]], []),
    ({"type": "number", "minimum": -0.5}, [-0.25, 3, 0.125], [-1]),
]


@pytest.mark.parametrize(("part", "right", "wrong"), HELD)
def test_what_is_held(part: dict[str, Any], right: list[Any], wrong: list[Any]) -> None:
    tree = of(below={"type": "array", "items": {"$ref": "#/$defs/Tree"}})
    schema = of(a=part) | {"$defs": {"Tree": tree}}
    assert loosened(schema) == []
    assert derivable(schema, [{"a": value} for value in right]) == [True] * len(right)
    assert derivable(schema, [{"a": value} for value in wrong]) == [False] * len(wrong)


def test_a_tool_has_one_budget_for_its_patterns() -> None:
    part = {"type": "string", "pattern": "^[a-z]{1,100}$"}
    paths = loosened(of(**{f"p{number}": part for number in range(12)}))
    assert paths == ["$.properties.p10.pattern", "$.properties.p11.pattern"]


def test_a_schema_that_no_grammar_can_hold_allows_any_object(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from precall_service.engine.vllm import grammars  # noqa: PLC0415

    def refuse(_schema: Any) -> str:
        raise RuntimeError("[12:00:00] grammar.cc:1: what it cannot hold\n")

    monkeypatch.setattr(grammars, "json_grammar", refuse)
    found = held_by_grammar(of(a={}))
    assert found.schema == {"type": "object"}
    assert [str(each) for each in found.loosened] == ["$: what it cannot hold"]
