"""A quick look at the schema of an argument: which values it cannot have.

It leaves out values that the model cannot write. It is not a validation, which the agent does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from precall_service.domain.json import JsonObject, JsonValue
from precall_service.speculation.predictors.history.values import Path


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


def fits(value: JsonValue, schema: JsonValue) -> bool:
    """Returns whether a value may have this schema, by its `type` and `enum` alone."""
    if not isinstance(schema, Mapping):
        return True
    allowed = schema.get("enum")
    if isinstance(allowed, Sequence) and not isinstance(allowed, str) and value not in allowed:
        return False
    match schema.get("type"):
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
        case _:
            return True
