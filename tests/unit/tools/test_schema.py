"""What a model reads when its arguments do not fit."""

from __future__ import annotations

import json

import pytest

from precall_service.domain.json import JsonObject, JsonValue
from precall_service.tools.schema import MismatchError, Schema, SchemaError
from tests.support.tools import CITY_SCHEMA

CITY = Schema(json.loads(CITY_SCHEMA))


@pytest.mark.parametrize(
    ("schema", "value", "message"),
    [
        (CITY, {"city": 5}, 'arguments.city: 5 is not of type "string"'),
        (CITY, {}, 'arguments: "city" is a required property'),
        (CITY, {"city": "Rome", "days": 0}, "arguments.days: 0 is less than the minimum of 1"),
        (
            CITY,
            {"city": "Rome", "town": 1},
            "arguments: Additional properties are not allowed ('town' was unexpected)",
        ),
        (
            Schema({"properties": {"a b": {"items": {"type": "null"}}}}),
            {"a b": [None, 1]},
            "arguments['a b'][1]: 1 is not of type \"null\"",
        ),
    ],
)
def test_names_the_worst_value(schema: Schema, value: JsonValue, message: str) -> None:
    with pytest.raises(MismatchError) as caught:
        schema.check(value, root="arguments")
    assert str(caught.value) == message


def test_accepts_what_fits() -> None:
    CITY.check({"city": "Rome", "days": 3}, root="arguments")


def test_message_is_bounded_and_keeps_its_end() -> None:
    with pytest.raises(MismatchError) as caught:
        CITY.check({"city": ["x"] * 10_000}, root="arguments")
    assert len(str(caught.value)) <= 300
    assert str(caught.value).startswith('arguments.city: ["x","x"')
    assert str(caught.value).endswith('is not of type "string"')


@pytest.mark.parametrize("schema", [{"$ref": "#"}, {"allOf": [{"$ref": "#"}]}])
def test_schema_without_end_allows_everything(schema: JsonObject) -> None:
    Schema(schema).check({"a": 1}, root="arguments")


def test_value_too_deep() -> None:
    deep = json.loads('{"a":' * 500 + "{}" + "}" * 500)
    tree = Schema({"type": "object", "properties": {"a": {"$ref": "#"}}})
    with pytest.raises(MismatchError, match="nested deeper than 256 levels"):
        tree.check(deep, root="arguments")


def test_where_no_alternative_fits_each_says_why() -> None:
    schema = Schema({"properties": {"days": {"anyOf": [{"type": "integer"}, {"type": "null"}]}}})
    with pytest.raises(MismatchError) as caught:
        schema.check({"days": "x"}, root="arguments")
    assert str(caught.value) == (
        'arguments.days: fits no alternative: "x" is not of type "integer"; or "x" is not of type'
        ' "null"'
    )


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"minLength": 2}, "\ud800"),
        ({"type": "object"}, ["\ud800"]),
        ({"type": "object"}, "\ud800"),
        ({"additionalProperties": False}, {"\ud800": 1}),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, ["\ud800"]),
    ],
)
def test_half_of_a_surrogate_pair_is_a_mismatch(schema: JsonObject, value: JsonValue) -> None:
    with pytest.raises(MismatchError, match="half of a surrogate pair"):
        Schema(schema).check(value, root="arguments")


def test_recursive_schema_works_with_an_older_dialect_named() -> None:
    tree = Schema(
        {
            "$schema": "http://json-schema.org/draft-07/schema#",
            "properties": {"a": {"$ref": "#", "maxProperties": 1}},
        }
    )
    tree.check({"a": {"a": {}}}, root="arguments")
    with pytest.raises(MismatchError, match=r"^arguments\.a: "):
        tree.check({"a": {"a": {}, "b": 1}}, root="arguments")


def test_nothing_is_retrieved() -> None:
    with pytest.raises(SchemaError, match="refers to another document"):
        Schema({"$ref": "https://json-schema.org/draft/2020-12/schema"})


def doubling(keyword: str, levels: int) -> JsonObject:
    """A short schema with 2^levels ways to its last part."""
    parts = {
        f"p{i}": {keyword: [{"$ref": f"#/$defs/p{i + 1}"}, {"$ref": f"#/$defs/p{i + 1}"}]}
        for i in range(levels)
    }
    return {"$ref": "#/$defs/p0", "$defs": {**parts, f"p{levels}": {"type": "string"}}}


UNBOUNDED: list[tuple[JsonObject, str]] = [
    (doubling("allOf", 60), "each counted as often as it is referred to; the limit is 10000"),
    (doubling("oneOf", 60), "each counted as often as it is referred to; the limit is 10000"),
    ({"anyOf": [{}] * 10_000}, "has 10001 parts"),
    (
        {
            "$ref": "#/$defs/p0",
            "$defs": {f"p{i}": {"$ref": f"#/$defs/p{i + 1}"} for i in range(200)} | {"p200": True},
        },
        "more than 128 parts inside one another",
    ),
    ({"anyOf": [{"pattern": str(i)} for i in range(65)]}, "one pattern more than the 64"),
    ({"patternProperties": {str(i): {} for i in range(65)}}, "one pattern more than the 64"),
    ({"pattern": "^((a{1,1000}){1,1000}){1,1000}$"}, "no regular expression .*too large"),
    ({"pattern": "^(a"}, "no regular expression"),
    (json.loads('{"items":' * 65 + "{}" + "}" * 65), "nested deeper than 64 levels"),
]


@pytest.mark.parametrize(("schema", "message"), UNBOUNDED, ids=lambda given: str(given)[:40])
def test_schemas_that_would_take_long_to_check_are_refused(
    schema: JsonObject, message: str
) -> None:
    with pytest.raises(SchemaError, match=message):
        Schema(schema)


NODE = {"$ref": "#/$defs/node"}
EITHER = {"anyOf": [{"type": "array", "items": NODE}, {"type": "array", "items": NODE}]}


@pytest.mark.parametrize(
    ("schema", "value", "message"),
    [
        ({"pattern": "^(a+)+$"}, "a" * 50_000 + "b", "does not match"),
        ({"pattern": "^(?=a)(a|aa)+$"}, "a" * 100 + "b", "does not match"),
        (
            {**NODE, "$defs": {"node": EITHER}},
            json.loads("[" * 100 + '"x"' + "]" * 100),
            "does not fit its schema, and is too large to say where",
        ),
        (
            {"items": {"allOf": [{"type": "string"}] * 3000}},
            [1] * 50_000,
            "does not fit its schema, and is too large to say where",
        ),
        (
            {"anyOf": [{"items": {"type": "string"}}] * 300},
            [1] * 5_000,
            "does not fit its schema, and is too large to say where",
        ),
    ],
    ids=lambda given: str(given)[:40],
)
def test_what_would_take_for_ever_is_answered(
    schema: JsonObject, value: JsonValue, message: str
) -> None:
    """Backtracking, doubling and sheer size: with a plain validator none of these ends."""
    with pytest.raises(MismatchError, match=message):
        Schema(schema).check(value, root="arguments")
