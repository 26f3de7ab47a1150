"""JSON Schema 2020-12: a schema's own check, and the check of values against it.

Never: retrieval. A schema reaches only what stands in its own text.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import referencing.exceptions
from jsonschema import Draft202012Validator, ValidationError
from jsonschema import exceptions as jsonschema_exceptions
from referencing.jsonschema import DRAFT202012, EMPTY_REGISTRY

from precall_service.domain.json import JsonObject, JsonValue
from precall_service.tools.text import shorten

DEPTH_MAX = 64
"""Levels of JSON in one schema: far above what people write, far below what recursion bears."""

_MESSAGE_CHARS_MAX = 300

# Where 2020-12 has schemas inside a schema. Everything else, such as `const`, `default` or
# `examples`, holds data: a "$ref" in there refers to nothing.
_ONE = frozenset(
    {
        "additionalProperties",
        "contains",
        "contentSchema",
        "else",
        "if",
        "items",
        "not",
        "propertyNames",
        "then",
        "unevaluatedItems",
        "unevaluatedProperties",
    }
)
_LIST = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})
_BY_NAME = frozenset(
    {"$defs", "definitions", "dependentSchemas", "patternProperties", "properties"}
)

_METASCHEMA = Draft202012Validator(
    Draft202012Validator.META_SCHEMA,
    format_checker=Draft202012Validator.FORMAT_CHECKER,  # `pattern` must be a regular expression
)


class SchemaError(ValueError):
    """Not a schema that can be served; the message has the JSON path of the offending part."""


class MismatchError(ValueError):
    """A value does not fit its schema; the message has its path, in words for a model."""


class Schema:
    """A schema that values can be checked against.

    It is read as 2020-12, whatever `$schema` says: generators of tools name older dialects and use
    only what both have; what 2020-12 spells otherwise, such as a list in `items`, is refused.
    """

    __slots__ = ("_validator",)

    def __init__(self, schema: JsonObject) -> None:
        """Compiles the schema.

        Raises:
            SchemaError: not valid 2020-12, too deep, or it refers to what is not in its own text.
        """
        # Left in, `$schema` would change the dialect wherever a reference leads to the root.
        schema = {name: part for name, part in schema.items() if name != "$schema"}
        _check_depth(schema)
        error = _worst(_METASCHEMA, schema)
        if error is not None:
            raise SchemaError(_bounded(f"{error.json_path}: {error.message}"))
        _check_references(schema)
        self._validator = Draft202012Validator(schema, registry=EMPTY_REGISTRY)

    def check(self, value: JsonValue, *, root: str) -> None:
        """Returns when `value` fits; `root` is what the value is called in messages.

        Raises:
            MismatchError: such as `arguments.city: 5 is not of type 'string'`.
        """
        try:
            error = _worst(self._validator, value)
        except RecursionError:
            raise MismatchError(
                f"{root}: nested too deeply to be checked, or its schema refers to itself without"
                " end"
            ) from None
        if error is not None:
            raise MismatchError(_bounded(f"{_spell(root, error.absolute_path)}: {error.message}"))


def _worst(validator: Draft202012Validator, value: JsonValue) -> ValidationError | None:
    """The violation that says most about what is wrong: jsonschema's own choice."""
    errors = validator.iter_errors(value)  # pyright: ignore[reportUnknownMemberType]
    return jsonschema_exceptions.best_match(errors)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]


def _check_depth(schema: JsonObject) -> None:
    level: list[JsonValue] = [schema]
    for _ in range(DEPTH_MAX):
        level = [part for value in level for part in _parts(value)]
        if not level:
            return
    raise SchemaError(f"$: nested deeper than {DEPTH_MAX} levels")


def _parts(value: JsonValue) -> Iterable[JsonValue]:
    if isinstance(value, Mapping):
        return value.values()
    if isinstance(value, list):
        return value
    return ()


def _check_references(root: JsonObject) -> None:
    resolver = EMPTY_REGISTRY.resolver_with_root(DRAFT202012.create_resource(root))
    waiting: list[tuple[str, JsonValue]] = [("$", root)]
    seen: set[int] = set()
    while waiting:
        path, schema = waiting.pop()
        if id(schema) in seen or not isinstance(schema, Mapping):
            continue
        seen.add(id(schema))
        if schema is not root and ("$id" in schema or "$schema" in schema):
            raise SchemaError(f"{path}: $id and $schema are allowed at the root alone")
        for keyword in ("$ref", "$dynamicRef"):
            reference = schema.get(keyword)
            if not isinstance(reference, str):
                continue
            where = f"{path}.{keyword}"
            if not reference.startswith("#"):
                raise SchemaError(
                    _bounded(f"{where}: {reference!r} refers to another document; copy it to $defs")
                )
            try:
                # A target may stand where no keyword has schemas; its own references count too.
                waiting.append((where, resolver.lookup(reference).contents))
            except referencing.exceptions.Unresolvable:
                raise SchemaError(_bounded(f"{where}: there is no {reference!r}")) from None
        waiting.extend(_subschemas(path, schema))


def _subschemas(path: str, schema: JsonObject) -> Iterator[tuple[str, JsonValue]]:
    for keyword, part in schema.items():
        where = f"{path}.{keyword}"
        if keyword in _ONE:
            yield where, part
        elif keyword in _LIST:
            yield from ((f"{where}[{i}]", each) for i, each in enumerate(_parts(part)))
        elif keyword in _BY_NAME and isinstance(part, Mapping):
            yield from ((f"{where}.{name}", each) for name, each in part.items())


def _spell(root: str, path: Iterable[str | int]) -> str:
    steps = (
        f".{step}" if isinstance(step, str) and step.isidentifier() else f"[{step!r}]"
        for step in path
    )
    return root + "".join(steps)


def _bounded(message: str) -> str:
    return shorten(message, _MESSAGE_CHARS_MAX)
