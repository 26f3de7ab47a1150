"""What a grammar cannot hold is left out alone, and told with its path."""

from __future__ import annotations

from typing import Any

import pytest

from precall_service.domain.events import LoosenedKeyword
from precall_service.engine.vllm import tool_grammars
from precall_service.engine.vllm.grammars import AS_JSON, ArgumentsForm
from precall_service.engine.vllm.held import COUNTED_MAX, ENUM_BYTES_MAX, ITEMS_MAX
from precall_service.engine.vllm.tool_grammars import (
    GRAMMAR_BYTES_MAX,
    LOOSENED_MAX,
    RULES_FOR_TWICE,
    SET_CHARS_MAX,
    SET_COMPILE_MAX_S,
    ToolGrammar,
    compile_together_s,
    tool_grammar,
    within_budget,
)
from tests.support.grammars import derivable


def of(**properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def loosened(schema: dict[str, Any]) -> list[str]:
    return [each.path for each in tool_grammar(schema, [AS_JSON]).loosened]


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
    def refuse(schema: Any, form: ArgumentsForm) -> str:
        raise RuntimeError("[12:00:00] grammar.cc:1: what it cannot hold\n")

    monkeypatch.setattr(tool_grammars, "arguments_grammar", refuse)
    found = tool_grammar(of(a={}), [AS_JSON])
    assert (found.schema, found.texts) == ({"type": "object"}, {})
    assert found.loosened == (LoosenedKeyword("$", "what it cannot hold"),)


def optional(count: int, **more: Any) -> dict[str, Any]:
    names = [f"p{number}" for number in range(count)]
    return {"type": "object", "properties": {name: {"type": "integer"} for name in names}, **more}


def test_too_many_optional_properties_leave_the_object_open() -> None:
    schema = of(a=optional(1200), b={"type": "integer"})
    assert loosened(schema) == ["$.properties.a.properties"]
    assert derivable(schema, [{"a": {"x": 1}, "b": 1}, {"a": 1, "b": 1}, {"a": {}}]) == [
        True,
        False,
        False,
    ]


def test_optional_properties_share_the_budget_of_the_tool() -> None:
    schema = of(a=optional(900), b=optional(900))
    assert loosened(schema) == ["$.properties.b.properties"]


@pytest.mark.parametrize("keyword", ["minProperties", "maxProperties"])
def test_a_bound_on_few_optional_properties_is_held(keyword: str) -> None:
    few, many = optional(COUNTED_MAX, **{keyword: 2}), optional(COUNTED_MAX + 1, **{keyword: 2})
    assert (loosened(few), loosened(many)) == ([], [f"$.{keyword}"])
    values = [{}, {"p0": 1, "p1": 1}, {"p0": 1, "p1": 1, "p2": 1}]
    held = [False, True, True] if keyword == "minProperties" else [True, True, False]
    assert (derivable(few, values), derivable(many, values)) == (held, [True] * 3)


def test_a_bound_that_the_properties_imply_is_no_bound() -> None:
    names = [f"p{number}" for number in range(3)]
    schema = optional(60, minProperties=3, maxProperties=60, required=names)
    assert loosened(schema) == []
    assert derivable(schema, [dict.fromkeys(names, 1), {"p0": 1}]) == [True, False]


def test_a_large_enumeration_of_objects_is_loosened() -> None:
    values = [{"number": number} for number in range(1000)]
    assert loosened(of(a={"enum": values})) == ["$.properties.a.enum"]
    assert loosened(of(a={"enum": values[:100]})) == []


def test_without_what_is_costly_the_rest_is_held() -> None:
    schema = of(a={"type": "string", "pattern": "^a$"}, b={"type": "integer"}, c=optional(50))
    found = tool_grammar(schema, [AS_JSON], costly=False)
    assert [each.path for each in found.loosened] == [
        "$.properties.a.pattern",
        "$.properties.c.properties",
    ]
    assert "took too long" in found.loosened[0].reason


def test_a_grammar_that_is_too_large_allows_any_object() -> None:
    found = tool_grammar(
        optional(3000, required=[f"p{number}" for number in range(3000)]), [AS_JSON]
    )
    assert found.schema == {"type": "object"}
    assert [each.path for each in found.loosened] == ["$"]
    assert f"the limit is {GRAMMAR_BYTES_MAX}" in found.loosened[0].reason


def test_not_every_one_of_many_keywords_is_named() -> None:
    parts: dict[str, Any] = {f"p{n}": {"not": {}} for n in range(LOOSENED_MAX + 2)}
    found = tool_grammar({"type": "object", "properties": parts}, ()).loosened
    assert len(found) == LOOSENED_MAX + 1
    assert found[-1] == LoosenedKeyword("$", "2 more keywords of it")


def test_the_tools_of_a_turn_share_a_budget() -> None:
    half = ToolGrammar(schema=True, texts={AS_JSON: "half"}, compile_s=SET_COMPILE_MAX_S / 2)
    more = ToolGrammar(schema=True, texts={AS_JSON: "more"}, compile_s=SET_COMPILE_MAX_S / 2 + 0.1)
    cheap = ToolGrammar(schema=True, texts={AS_JSON: "cheap"})
    large = ToolGrammar(schema=True, texts={AS_JSON: "x" * SET_CHARS_MAX})
    fitting = within_budget([half, more, half, cheap, large])
    assert [each.texts.get(AS_JSON) for each in fitting] == ["half", None, "half", "cheap", None]
    assert fitting[1].schema == fitting[4].schema == {"type": "object"}


def test_a_tool_takes_longer_beside_the_rules_of_others() -> None:
    many = ToolGrammar(schema=True, compile_s=1.0, rules=RULES_FOR_TWICE)
    few = ToolGrammar(schema=True, compile_s=0.5)
    assert compile_together_s([many]) == 1.0
    assert compile_together_s([few] * 4) == 2.0
    assert compile_together_s([many, few]) == 2.0
    assert compile_together_s([many] * 2) == 3.0
    assert [each is many for each in within_budget([many] * 4)] == [True, True, False, False]
