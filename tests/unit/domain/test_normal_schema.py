"""The normal form says the same in one way."""

from __future__ import annotations

import json
from typing import Any

import pytest

from precall_service.domain import merged_schemas
from precall_service.domain.json import JsonValue
from precall_service.domain.merged_schemas import MERGES_MAX, OPTIONS_MAX, Merging
from precall_service.domain.normal_schema import EndlessReferenceError, normal_form

STRING: dict[str, Any] = {"type": "string"}
INTEGER: dict[str, Any] = {"type": "integer"}
NULL: dict[str, Any] = {"type": "null"}


def of(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


@pytest.mark.parametrize(
    ("schema", "normal"),
    [
        ({"title": "A", "description": "b", "default": 1, **STRING}, STRING),
        ({"type": ["string", "null"]}, {"anyOf": [STRING, NULL]}),
        ({"type": ["string"]}, STRING),
        (
            {"type": ["string", "integer"], "minLength": 1, "minimum": 2},
            {"anyOf": [{**STRING, "minLength": 1}, {**INTEGER, "minimum": 2}]},
        ),
        ({"type": "string", "minimum": 2}, STRING),
        ({"const": "a"}, {"enum": ["a"]}),
        ({"const": "a", "enum": ["a", "b"]}, {"enum": ["a"]}),
        ({"type": "string", "enum": ["a", 1, None]}, {"enum": ["a"]}),
        ({"type": ["string", "null"], "enum": ["a", 1, None]}, {"enum": ["a", None]}),
        ({"type": "integer", "enum": [1, 1.0, 1.5, True]}, {"enum": [1, 1.0]}),
        ({"anyOf": [STRING, {"anyOf": [NULL, INTEGER]}]}, {"anyOf": [STRING, NULL, INTEGER]}),
        ({"anyOf": [STRING]}, STRING),
        ({"anyOf": [STRING, True]}, True),
        ({"oneOf": [STRING, False]}, STRING),
        (
            {"type": "string", "anyOf": [{"minLength": 2}, {"maxLength": 1}]},
            {"anyOf": [{**STRING, "minLength": 2}, {**STRING, "maxLength": 1}]},
        ),
        ({"type": "string", "anyOf": [STRING, INTEGER]}, STRING),
        (
            {"allOf": [STRING, {"minLength": 2}, {"minLength": 3, "maxLength": 9}]},
            {**STRING, "minLength": 3, "maxLength": 9},
        ),
        ({"allOf": [{"type": "number"}, INTEGER]}, INTEGER),
        (
            {"allOf": [of(a=STRING), {"required": ["a"]}, of(b=INTEGER)]},
            {**of(a=STRING, b=INTEGER), "required": ["a"]},
        ),
        (
            {"allOf": [of(a={"type": "number"}), of(a={"minimum": 1})]},
            of(a={"type": "number", "minimum": 1}),
        ),
        (
            {"allOf": [{**of(a=STRING), "additionalProperties": False}, of(b=INTEGER)]},
            {**of(a=STRING, b=False), "additionalProperties": False},
        ),
        (
            {"allOf": [{**of(), "additionalProperties": INTEGER}, of(b={"minimum": 1})]},
            {**of(b={"minimum": 1, **INTEGER}), "additionalProperties": INTEGER},
        ),
        ({"enum": ["a", "b"], "allOf": [{"enum": ["b", "c"]}]}, {"enum": ["b"]}),
        ({"enum": [1, 2**60], "allOf": [{"enum": [1.0, 2**60]}]}, {"enum": [1, 2**60]}),
        (
            {"allOf": [{"pattern": "a"}, {"pattern": "b"}]},
            {"allOf": [{"pattern": "a"}, {"pattern": "b"}]},
        ),
        ({"not": {"const": 1, "title": "no"}}, {"not": {"enum": [1]}}),
    ],
)
def test_the_normal_form(schema: dict[str, Any], normal: Any) -> None:
    assert normal_form(schema) == normal


def test_references_are_replaced() -> None:
    schema = of(
        a={"$ref": "#/$defs/A", "description": "an A"},
        b={"$ref": "#/properties/a"},
        c={"$ref": "#/$defs/A", "maxLength": 2},
        d={"$ref": "#here"},
    ) | {"$defs": {"A": STRING, "B": {"$anchor": "here", **INTEGER}}}
    assert normal_form(schema) == of(a=STRING, b=STRING, c={**STRING, "maxLength": 2}, d=INTEGER)


def test_a_reference_that_leads_back_stays() -> None:
    node = of(next={"anyOf": [{"$ref": "#/$defs/Node"}, NULL]}, name={"$ref": "#/$defs/Name"})
    schema = of(first={"$ref": "#/$defs/Node"}) | {"$defs": {"Node": node, "Name": STRING}}
    link = {"$ref": "#/$defs/part1"}
    assert normal_form(schema) == of(first=link) | {
        "$defs": {"part1": of(next={"anyOf": [link, NULL]}, name=STRING)}
    }


def test_the_whole_may_be_within_itself() -> None:
    schema = of(below={"type": "array", "items": {"$ref": "#"}})
    below = of(below={"type": "array", "items": {"$ref": "#/$defs/part1"}})
    assert normal_form(schema) == {**below, "$defs": {"part1": below}}


@pytest.mark.parametrize(
    "schema",
    [
        of(a={"$ref": "#/$defs/A"}) | {"$defs": {"A": {"$ref": "#/$defs/A"}}},
        of(a={"$ref": "#/$defs/A"})
        | {"$defs": {"A": {"$ref": "#/$defs/B"}, "B": {"$ref": "#/$defs/A"}}},
        {"type": "object", "$ref": "#"},
    ],
)
def test_a_reference_to_nothing_but_itself_is_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(EndlessReferenceError):
        normal_form(schema)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "minLength": 2, "maxLength": 1},
        {"type": "integer", "minimum": 2, "maximum": 1},
        {"type": "array", "minItems": 2, "maxItems": 1},
        {"enum": []},
        {"type": "string", "enum": [1]},
        {"allOf": [STRING, INTEGER]},
        {"anyOf": [False, {"allOf": [STRING, NULL]}]},
        {**of(), "additionalProperties": False, "required": ["a"]},
        {**of(a=False), "required": ["a"]},
        {**of(a={"allOf": [STRING, INTEGER]}), "required": ["a"]},
        {"const": 1, "enum": [2]},
    ],
)
def test_what_no_value_satisfies_is_false(schema: dict[str, Any]) -> None:
    assert normal_form(schema) is False


def test_many_options_are_not_multiplied() -> None:
    options = [{"type": "string", "minLength": n} for n in range(OPTIONS_MAX)]
    others = [{"type": "string", "maxLength": 100 + n} for n in range(OPTIONS_MAX)]
    found = normal_form({"allOf": [{"anyOf": options}, {"anyOf": others}]})
    assert found == {"allOf": [{"anyOf": options}, {"anyOf": others}]}


def test_true_changes_nothing() -> None:
    merging = Merging()
    assert merging.merged(True, STRING) == merging.merged(STRING, True) == STRING


def test_a_schema_has_a_bound_on_its_merging() -> None:
    """These would have 8 to the power of 100 options."""
    parts = [
        {"anyOf": [of(**{f"a{part}{option}": {"minimum": option}}) for option in range(8)]}
        for part in range(100)
    ]
    found = normal_form({"type": "object", "allOf": parts})
    assert isinstance(found, dict)
    assert len(json.dumps(found)) < 4 * len(json.dumps(parts))


def test_what_is_merged_last_stays_in_all_of() -> None:
    part = {"allOf": [{"minLength": 1}, {"maxLength": 2}]}
    found = normal_form(of(**{f"p{number}": part for number in range(MERGES_MAX + 1)}))
    merged = {f"p{number}": {"minLength": 1, "maxLength": 2} for number in range(MERGES_MAX)}
    assert found == of(**merged, **{f"p{MERGES_MAX}": part})


def test_long_enumerations_count_as_much_as_they_are_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Merged with a thousand parts, 5,000 values were read a thousand times."""
    read = 0
    is_of_type = merged_schemas._is_of_type  # pyright: ignore[reportPrivateUsage]

    def counted(value: JsonValue, types: JsonValue) -> bool:
        nonlocal read
        read += 1
        return is_of_type(value, types)

    monkeypatch.setattr(merged_schemas, "_is_of_type", counted)
    parts: list[JsonValue] = [{"enum": list(range(5000))}, *[{"type": "integer"}] * 1000]
    assert normal_form({"allOf": parts}) is not False
    assert read < 40 * 5000
