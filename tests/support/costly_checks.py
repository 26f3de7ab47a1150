"""Schemas and values whose check takes long for their size, one or more for each keyword."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from precall_service.domain.json import JsonObject, JsonValue

HALVES: Final = [number + 0.5 for number in range(1000)]
HUGE: Final = 10**4000


def none_of(schema: JsonObject) -> JsonObject:
    """A schema with which all items are compared, since none of them fits."""
    return {"not": {"contains": schema}}


def evaluated_again(levels: int) -> JsonObject:
    """A schema whose validator looks at its innermost part 2^levels times."""
    schema: dict[str, Any] = {"properties": {"a": True}}
    for _ in range(levels):
        schema = {"allOf": [schema], "unevaluatedProperties": {"type": "integer"}}
    return schema


KEYWORDS: Final[Mapping[str, tuple[JsonObject, JsonValue]]] = {
    "type": ({"items": {"type": "integer"}}, [1] * 20_000),
    "allOf": ({"items": {"allOf": [{"type": "integer"}] * 100}}, [1] * 1000),
    "anyOf": ({"items": {"anyOf": [{"type": "string"}] * 100 + [True]}}, [1] * 1000),
    "enum of numbers": (none_of({"enum": HALVES}), [-1.5] * 10),
    "enum of integers": (none_of({"enum": list(range(1000))}), [-1.5] * 10),
    "enum of objects": (none_of({"enum": [{"a": n} for n in range(1000)]}), [{"a": -1}] * 20),
    "enum of lists": (none_of({"enum": [[*HALVES[:10], n] for n in range(90)]}), [HALVES[:11]] * 9),
    "enum of texts": (none_of({"enum": [f"{n:09}" for n in range(5000)]}), ["x" * 9] * 5000),
    "enum of all kinds": (none_of({"enum": [*map(str, range(3000)), 1]}), ["s"] * 300),
    "const": (none_of({"const": [*HALVES, 1]}), [[*HALVES, 2]] * 10),
    "multipleOf": ({"items": {"multipleOf": 0.01}}, [n / 100 for n in range(1, 9000)]),
    "multipleOf, tiny": ({"items": {"multipleOf": 1e-300}}, [1e300] * 300),
    "minimum": ({"items": {"minimum": 0.5}}, list(range(1, 20_000))),
    "maximum, huge": ({"items": {"maximum": HUGE}}, [1.5] * 2000),
    "maximum of huge numbers": ({"items": {"maximum": 1e308}}, [HUGE] * 20),
    "uniqueItems": ({"uniqueItems": True}, HALVES * 1 + list(range(9000))),
    "uniqueItems, few": ({"items": {"uniqueItems": True}}, [HALVES[:14]] * 200),
    "uniqueItems, nested": (
        {
            "$ref": "#/$defs/a",
            "$defs": {"a": {"uniqueItems": True, "items": {"$ref": "#/$defs/a"}}},
        },
        [[[[[n]]]] for n in range(900)],
    ),
    "uniqueItems, huge": ({"uniqueItems": True}, [HUGE + n for n in range(16)]),
    "contains": ({"not": {"anyOf": [{"contains": {"type": "null"}}] * 50}}, [1] * 1000),
    "required": (
        {"items": {"required": [f"a{n}" for n in range(3000)]}},
        [{f"a{n}": 1 for n in range(3000)}] * 5,
    ),
    "dependentRequired": (
        {"items": {"dependentRequired": {f"a{n}": ["a0", "a1"] for n in range(1500)}}},
        [{f"a{n}": 1 for n in range(1500)}] * 5,
    ),
    "dependentSchemas": (
        {"items": {"dependentSchemas": {f"a{n}": {"minProperties": 1} for n in range(500)}}},
        [{f"a{n}": 1 for n in range(500)}] * 5,
    ),
    "properties": (
        {
            "items": {
                "properties": {f"a{n}": {"type": "integer"} for n in range(1000)},
                "additionalProperties": False,
            }
        },
        [{f"a{n}": 1 for n in range(1000)}] * 10,
    ),
    "propertyNames": ({"propertyNames": {"pattern": "^a"}}, {f"a{n}": 1 for n in range(9000)}),
    "patternProperties": (
        {"patternProperties": {f"^a.*{n}b$": True for n in range(60)}},
        {f"a{n}": 1 for n in range(3000)},
    ),
    "pattern": ({"pattern": "[ab]*a[ab]{500}c"}, "ab" * 3000),
    "pattern of any character": ({"pattern": ".*a.{300}c"}, "aé" * 3000),
    "pattern that looks ahead": ({"pattern": "^(?:(?=.*b)[ab])*$"}, "ab" * 1500),
    "pattern that looks back": ({"pattern": "^(?:(?<=a|b|^)[ab])*$"}, "ab" * 1500),
    "minLength": ({"allOf": [{"minLength": n} for n in range(100)]}, "é" * 20_000),
    "unevaluatedProperties": (evaluated_again(12), {"a": 1, "b": 2}),
    "unevaluatedItems": (
        {
            "allOf": [{"contains": {"const": n}, "minContains": 0} for n in range(30)],
            "unevaluatedItems": {"type": "integer"},
        },
        [1] * 300,
    ),
    "many names": ({}, {f"{n}": n for n in range(9000)}),
}
"""Each takes some milliseconds at most, unless it is one that may take any time."""
