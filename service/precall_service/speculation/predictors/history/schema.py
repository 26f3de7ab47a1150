"""A quick look at a schema: which arguments cannot be valid.

It leaves out values that the model cannot write, and forms that a tool has no more. It is not a
validation, which the agent does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from precall_service.domain.json import JsonObject, JsonValue
from precall_service.speculation.predictors.history.values import Path

DEPTH_MAX: Final = 16
"""What is deeper is not looked at."""


def part_schema(schema: JsonObject, path: Path) -> JsonValue:
    """Returns the schema of a part of the arguments; None if it is not found."""
    found: JsonValue = schema
    for step in path:
        if not isinstance(found, Mapping):
            return None
        if isinstance(step, int):
            found = found.get("items")
        else:
            properties = found.get("properties")
            found = properties.get(step) if isinstance(properties, Mapping) else None
    return found


def fits(value: JsonValue, schema: JsonValue, depth: int = DEPTH_MAX) -> bool:
    """Returns whether a value may have this schema.

    Only types, `enum`, and what objects and arrays contain are looked at.
    """
    if not isinstance(schema, Mapping) or depth == 0:
        return schema is not False
    allowed = schema.get("enum")
    if isinstance(allowed, Sequence) and not isinstance(allowed, str) and value not in allowed:
        return False
    kind = schema.get("type")
    kinds = [kind] if isinstance(kind, str) else kind
    if isinstance(kinds, Sequence) and not any(_is(value, each) for each in kinds):
        return False
    if isinstance(value, Mapping):
        return _fits_object(value, schema, depth)
    if isinstance(value, Sequence) and not isinstance(value, str):
        items = schema.get("items")
        return all(fits(each, items, depth - 1) for each in value)
    return True


def _is(value: JsonValue, kind: JsonValue) -> bool:
    match kind:
        case "string":
            return isinstance(value, str)
        case "boolean":
            return isinstance(value, bool)
        case "integer":
            return not isinstance(value, bool) and (
                isinstance(value, int) or (isinstance(value, float) and value.is_integer())
            )
        case "number":
            return isinstance(value, int | float) and not isinstance(value, bool)
        case "array":
            return isinstance(value, Sequence) and not isinstance(value, str)
        case "object":
            return isinstance(value, Mapping)
        case "null":
            return value is None
        case _:
            return True


def _fits_object(value: JsonObject, schema: JsonObject, depth: int) -> bool:
    required = schema.get("required")
    if isinstance(required, Sequence) and any(
        isinstance(name, str) and name not in value for name in required
    ):
        return False
    properties = schema.get("properties")
    known: JsonObject = properties if isinstance(properties, Mapping) else {}
    others = None if "patternProperties" in schema else schema.get("additionalProperties")
    return all(fits(each, known.get(name, others), depth - 1) for name, each in value.items())
