# Copied from service/precall_service/tools/schema.py by `make gen`. Do not edit.
"""JSON Schema 2020-12: checks a schema, and checks values against it.

Both run on the event loop, so both are bounded: a schema or value that could take long is refused.

Never: fetches a schema. References lead only to parts of the same schema.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, cast

from jsonschema_rs import Draft202012Validator, FancyRegexOptions, ValidationError

from precall.testing._service.domain.json import HALF_PAIR, JsonObject, JsonValue, spell_path
from precall.testing._service.tools.schema_parts import SchemaParts, UnboundedSchemaError
from precall.testing._service.tools.text import shorten

VALUE_DEPTH_MAX: Final = 256
"""The most levels of JSON in one value."""
WORK_MAX: Final = 30_000_000
"""The most parts of a schema times the size of a value: about 0.2 s in the worst case."""
DETAILED_WORK_MAX: Final = 200_000
"""The same for a value that does not fit, where all mismatches are collected for the message."""

_MESSAGE_CHARS_MAX = 300
_CHARS_AS_ONE_VALUE = 8
_BRANCHES_SHOWN = 4
# Patterns take time linear in the text, except those with lookaround, whose steps are limited.
_PATTERNS = FancyRegexOptions(backtrack_limit=10_000, size_limit=1 << 20)


class SchemaError(ValueError):
    """The schema cannot be used; the message has the JSON path of the offending part."""


class MismatchError(ValueError):
    """A value does not fit its schema; the message tells a model where and why."""


class Schema:
    """A schema that values can be checked against.

    It is read as 2020-12, whatever `$schema` says: libraries that generate schemas of tools name
    older dialects but use only what both have. Older spellings, such as a list in `items`, are
    refused.
    """

    __slots__ = ("_parts", "_validator")

    def __init__(self, schema: JsonObject) -> None:
        """Compiles the schema.

        Raises:
            SchemaError: not valid 2020-12, too much work to check values with, or a reference leads
                out of the schema.
        """
        # `$schema` would change the dialect wherever a reference leads to the root.
        schema = {name: part for name, part in schema.items() if name != "$schema"}
        try:
            self._parts = SchemaParts(schema)
            self._validator = Draft202012Validator(
                schema, offline=True, pattern_options=_PATTERNS, validate_formats=False
            )
        except UnboundedSchemaError as error:
            raise SchemaError(_bounded(str(error))) from None
        except ValidationError as error:
            where = spell_path("$", error.instance_path)
            raise SchemaError(_bounded(f"{where}: {_reason(error)}")) from None

    def check(self, value: JsonValue, *, root: str) -> None:
        """Returns if the value fits. Messages call the value `root`.

        Raises:
            MismatchError: such as `arguments.city: 5 is not of type "string"`.
        """
        depth, size = _extent(value, root)
        if self._parts.count * size > WORK_MAX:
            raise MismatchError(
                f"{root}: too large to be checked against a schema of {self._parts.count} parts"
            )
        try:
            self._validate(value, depth, size, root)
        except UnicodeEncodeError:  # the validator raises it for some values with such a half
            raise MismatchError(f"{root}: {HALF_PAIR}") from None

    def _validate(self, value: JsonValue, depth: int, size: int, root: str) -> None:
        if self._validator.is_valid(value):
            return
        if self._parts.visits(depth) * size > DETAILED_WORK_MAX:
            raise MismatchError(f"{root}: does not fit its schema, and is too large to say where")
        try:
            self._validator.validate(value)
        except ValidationError as error:
            where = spell_path(root, error.instance_path)
            raise MismatchError(_bounded(f"{where}: {_reason(error)}")) from None


def _extent(value: JsonValue, root: str) -> tuple[int, int]:
    """Returns the levels of a value and the number of values in it; a long text counts as several.

    Raises:
        MismatchError: too many levels.
    """
    size = 0
    level: list[JsonValue] = [value]
    for depth in range(VALUE_DEPTH_MAX):
        size += len(level)
        below: list[JsonValue] = []
        for each in level:
            if isinstance(each, str):
                size += len(each) // _CHARS_AS_ONE_VALUE
            elif isinstance(each, Mapping):
                size += sum(len(name) for name in each) // _CHARS_AS_ONE_VALUE
                below.extend(each.values())
            elif isinstance(each, list):
                below.extend(each)
        if not below:
            return depth + 1, size
        level = below
    raise MismatchError(f"{root}: nested deeper than {VALUE_DEPTH_MAX} levels")


def _reason(error: ValidationError) -> str:
    """Returns the message of a mismatch; if no alternative fits, it says why for each."""
    if error.kind.name == "format":
        return f"{error.instance!r} is no regular expression (ECMA 262), or too large a one"
    branches = cast("list[list[ValidationError]]", getattr(error.kind, "context", []))
    if not branches:
        return error.message
    above = len(error.instance_path)
    reasons = dict.fromkeys(
        f"{spell_path('', branch[0].instance_path[above:])} {_reason(branch[0])}"
        for branch in branches
        if branch
    )
    shown = [reason.strip() for reason in reasons][:_BRANCHES_SHOWN]
    return f"fits no alternative: {'; or '.join(shown)}" if shown else error.message


def _bounded(message: str) -> str:
    return shorten(message, _MESSAGE_CHARS_MAX)
