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
        (CITY, {"city": 5}, "arguments.city: 5 is not of type 'string'"),
        (CITY, {}, "arguments: 'city' is a required property"),
        (CITY, {"city": "Rome", "days": 0}, "arguments.days: 0 is less than the minimum of 1"),
        (
            CITY,
            {"city": "Rome", "town": 1},
            "arguments: Additional properties are not allowed ('town' was unexpected)",
        ),
        (
            Schema({"properties": {"a b": {"items": {"type": "null"}}}}),
            {"a b": [None, 1]},
            "arguments['a b'][1]: 1 is not of type 'null'",
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
    assert str(caught.value).startswith("arguments.city: ['x', 'x'")
    assert str(caught.value).endswith("is not of type 'string'")


@pytest.mark.parametrize("schema", [{"$ref": "#"}, {"allOf": [{"$ref": "#"}]}])
def test_schema_without_end(schema: JsonObject) -> None:
    with pytest.raises(MismatchError, match="refers to itself without end"):
        Schema(schema).check({}, root="arguments")


def test_value_too_deep_for_a_recursive_schema() -> None:
    deep = json.loads('{"a":' * 500 + "{}" + "}" * 500)
    tree = Schema({"type": "object", "properties": {"a": {"$ref": "#"}}})
    with pytest.raises(MismatchError, match="nested too deeply"):
        tree.check(deep, root="arguments")


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
