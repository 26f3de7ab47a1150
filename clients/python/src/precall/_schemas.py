"""Turns the types of parameters into the JSON Schema that the model is held to.

Owns: that every value of the schema can be meant for the function. A type for which the schema and
pydantic disagree is refused, or gets a schema on which they agree.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable, Iterator
from typing import Any, Final

import pydantic
import pydantic_core
from pydantic.json_schema import GenerateJsonSchema, JsonRef, JsonSchemaValue
from pydantic_core import core_schema

Schema = dict[str, pydantic.JsonValue]

_DATE: Final = "[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])"
_TIME: Final = "([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]"


def input_schema(arguments: type[pydantic.BaseModel]) -> Schema:
    """Returns the JSON Schema of a model of arguments.

    Raises:
        TypeError: A type or a default does not become JSON; the message says which.
    """
    try:
        schema = arguments.model_json_schema(schema_generator=_AgreedSchema)
    except Exception as error:  # pydantic raises many kinds of errors for types
        raise TypeError(f"{_culprit(arguments)}{first_line(error)}") from error
    del schema["title"]
    for path, number in _not_finite(schema, ()):
        raise TypeError(
            f"its schema has {number} at {'.'.join(path)}, and JSON has no such number; take a "
            "finite one"
        )
    _require_tags(schema, schema)
    return schema


def first_line(error: Exception) -> str:
    """Returns the first line of an error's message."""
    return next(iter(str(error).splitlines()), repr(error))


class _AgreedSchema(GenerateJsonSchema):
    """Generates schemas for models: no titles made from names, no warnings about defaults.

    It raises TypeError, since pydantic leaves out a member of a union that raises its own error.
    """

    ignored_warning_kinds = {"skipped-choice", "non-serializable-default"}  # noqa: RUF012

    def field_title_should_be_set(self, schema: object) -> bool:
        return False

    def encode_default(self, dft: Any) -> Any:
        shown = pydantic_core.to_jsonable_python(dft, serialize_unknown=True)
        for path, number in _not_finite(shown, ()):
            where = f" at {'.'.join(path)}" if path else ""
            raise TypeError(
                f"its default has {number}{where}, and JSON has no such number; take a finite "
                "one, or None for no limit"
            )
        return super().encode_default(dft)

    def datetime_schema(self, schema: core_schema.DatetimeSchema) -> JsonSchemaValue:
        if schema.get("tz_constraint") == "naive":  # the format date-time has an offset
            return {"type": "string", "pattern": f"^{_DATE}T{_TIME}$"}
        return super().datetime_schema(schema)

    def time_schema(self, schema: core_schema.TimeSchema) -> JsonSchemaValue:
        if schema.get("tz_constraint") == "naive":  # the format time has an offset, too
            return {"type": "string", "pattern": f"^{_TIME}$"}
        return super().time_schema(schema)

    def literal_schema(self, schema: core_schema.LiteralSchema) -> JsonSchemaValue:
        _check_values(schema, schema["expected"])
        return super().literal_schema(schema)

    def enum_schema(self, schema: core_schema.EnumSchema) -> JsonSchemaValue:
        _check_values(schema, schema["members"])
        return super().enum_schema(schema)

    def dict_schema(self, schema: core_schema.DictSchema) -> JsonSchemaValue:
        if "keys_schema" in schema:
            keys = self.generate_inner(schema["keys_schema"])
            if "$ref" in keys:
                keys = self.get_schema_from_definitions(JsonRef(keys["$ref"])) or {}
            if keys.get("type") in {"array", "object", "null"}:
                raise TypeError(
                    "the keys of a dict must be strings or numbers, since names in a JSON object "
                    "are strings; take a list of pairs"
                )
        return super().dict_schema(schema)

    def is_subclass_schema(self, schema: core_schema.IsSubclassSchema) -> JsonSchemaValue:
        raise TypeError(
            f"a JSON value cannot be a class, such as {schema['cls'].__name__}; take its name"
        )


def _check_values(schema: core_schema.CoreSchema, values: Iterable[object]) -> None:
    """Raises an error for a value that no JSON value becomes, although the schema lists one."""
    validator = pydantic_core.SchemaValidator(schema)
    for value in values:
        written = value.value if isinstance(value, enum.Enum) else value
        try:
            text = pydantic_core.to_json(written, inf_nan_mode="constants")
            taken = validator.validate_json(text)
        except (pydantic.ValidationError, ValueError):
            taken = None
        if taken != value:
            raise TypeError(
                f"no JSON value becomes {value!r}; take an Enum of strings or numbers, or a "
                "Literal of these, not of members of an Enum"
            )


def _culprit(arguments: type[pydantic.BaseModel]) -> str:
    """Returns which parameter has no schema, as the beginning of a message."""
    for name, field in arguments.model_fields.items():
        definitions: dict[str, Any] = {name: (field.annotation, field)}
        try:
            alone = pydantic.create_model("Arguments", **definitions)
            alone.model_json_schema(schema_generator=_AgreedSchema)
        except Exception:  # noqa: BLE001  as above: it is only to be found
            return f"parameter {field.alias!r}: "
    return ""


def _not_finite(
    node: pydantic.JsonValue, path: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], float]]:
    if isinstance(node, float) and not math.isfinite(node):
        yield path, node
    for name, part in _parts(node):
        yield from _not_finite(part, (*path, name))


def _require_tags(node: pydantic.JsonValue, schema: Schema) -> None:
    """Makes the tags of unions required: without one, pydantic refuses a value, default or not."""
    if isinstance(node, dict):
        for tag in _tags(node, schema):
            _require(node, tag, schema)
    for _, part in _parts(node):
        _require_tags(part, schema)


def _tags(union: Schema, schema: Schema) -> set[str]:
    """Returns the properties that tell the members of a union apart.

    If a function does, the schema does not name them: they are those with one value in each member.
    """
    named, members = union.get("discriminator"), union.get("oneOf")
    if isinstance(named, dict):
        return {str(named.get("propertyName"))}
    if not isinstance(members, list) or not members:
        return set()
    found: list[set[str]] = []
    for member in members:
        properties = _resolved(member, schema).get("properties")
        parts = properties.items() if isinstance(properties, dict) else ()
        found.append({name for name, part in parts if isinstance(part, dict) and "const" in part})
    return found[0].intersection(*found[1:])


def _require(union: pydantic.JsonValue, tag: pydantic.JsonValue, schema: Schema) -> None:
    members = union.get("oneOf") if isinstance(union, dict) else None
    for member in members if isinstance(members, list) else ():
        found = _resolved(member, schema)
        _require(found, tag, schema)  # a union within a union has the same tag
        properties, required = found.get("properties"), found.get("required", [])
        if isinstance(properties, dict) and isinstance(required, list) and tag in properties:
            found["required"] = [*required, *([] if tag in required else [tag])]


def _resolved(node: pydantic.JsonValue, schema: Schema) -> Schema:
    while isinstance(node, dict) and isinstance(reference := node.get("$ref"), str):
        node = schema
        for step in reference.removeprefix("#/").split("/"):
            found = node.get(step.replace("~1", "/").replace("~0", "~"))
            node = found if isinstance(found, dict) else {}
    return node if isinstance(node, dict) else {}


def _parts(node: pydantic.JsonValue) -> list[tuple[str, pydantic.JsonValue]]:
    if isinstance(node, dict):
        return list(node.items())
    return [(str(index), part) for index, part in enumerate(node)] if isinstance(node, list) else []
