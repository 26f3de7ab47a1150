"""JSON Schema 2020-12: checks a schema, and checks values against it.

Both keep Python's lock. A schema that takes long to compile is refused. What a check may cost is
estimated first (`check_within`); what may cost more is for a process that can be given up.

Never: fetches a schema. References lead only to parts of the same schema.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Final, cast

from jsonschema_rs import Draft202012Validator, FancyRegexOptions, ValidationError

from precall_service.domain.json import HALF_PAIR, JsonObject, JsonValue, spell_path
from precall_service.tools.pattern_costs import CACHE_BYTES_MAX, PATTERN_SIZE_MAX
from precall_service.tools.schema_costs import Extent, is_plain
from precall_service.tools.schema_parts import SchemaParts, UnboundedSchemaError
from precall_service.tools.text import shorten

VALUE_DEPTH_MAX: Final = 256
"""The most levels of JSON in one value."""
MISMATCH_NS: Final = 15_000
"""The time to tell of one mismatch. There can be one for each part and value."""
VISITS_MAX: Final = 200_000
"""The most visits of parts and values where a mismatch is explained, if nothing else bounds it."""
UNEXPLAINED: Final = "does not fit its schema, and is too large to say where"

_MESSAGE_CHARS_MAX = 300
_CHARS_AS_ONE_VALUE = 8
_BRANCHES_SHOWN = 4
_PATTERNS = FancyRegexOptions(
    backtrack_limit=10_000, size_limit=PATTERN_SIZE_MAX, dfa_size_limit=CACHE_BYTES_MAX
)


class SchemaError(ValueError):
    """The schema cannot be used; the message has the JSON path of the offending part."""


class MismatchError(ValueError):
    """A value does not fit its schema; the message tells a model where and why."""


class CostlyError(Exception):
    """A check may take longer than it was allowed to; nothing is known of the value."""


class Schema:
    """A schema that values can be checked against.

    It is read as 2020-12, whatever `$schema` says: libraries that generate schemas of tools name
    older dialects but use only what both have. Older spellings, such as a list in `items`, are
    refused.

    Attributes:
        source: The schema as it was given.
    """

    __slots__ = ("__weakref__", "_parts", "_validator", "source")

    def __init__(self, schema: JsonObject) -> None:
        """Compiles the schema.

        Raises:
            SchemaError: not valid 2020-12, too much work to check values with, or a reference leads
                out of the schema.
        """
        self.source = schema
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

    @property
    def held_bytes(self) -> int:
        """An upper bound of the memory that the schema takes."""
        return self._parts.held_bytes

    def check(self, value: JsonValue, *, root: str) -> None:
        """Returns if the value fits, however long that takes. Messages call the value `root`.

        Raises:
            MismatchError: such as `arguments.city: 5 is not of type "string"`.
        """
        extent = extent_of(value, root)
        if self.fits(value, root=root):
            return
        if self._parts.visits(extent) > VISITS_MAX:
            raise MismatchError(f"{root}: {UNEXPLAINED}")
        raise MismatchError(self.explained(value, root=root))

    def check_within(self, value: JsonValue, *, root: str, cost_max_ns: int) -> None:
        """Returns if the value fits. It takes at most that much processor time, twice.

        Raises:
            MismatchError: as `check`.
            CostlyError: it could take longer.
        """
        extent = extent_of(value, root)
        if self.cost_ns(extent) > cost_max_ns:
            raise CostlyError
        if self.fits(value, root=root):
            return
        if self._parts.visits(extent) * MISMATCH_NS > cost_max_ns:
            raise CostlyError
        raise MismatchError(self.explained(value, root=root))

    def fits(self, value: JsonValue, *, root: str) -> bool:
        """Returns whether a value fits that is not nested too deeply. It may take for ever.

        Raises:
            MismatchError: the value holds half of a surrogate pair.
        """
        try:
            return self._validator.is_valid(value)
        except UnicodeEncodeError:  # the validator raises it for some values with such a half
            raise MismatchError(f"{root}: {HALF_PAIR}") from None

    def explained(self, value: JsonValue, *, root: str) -> str:
        """Returns where and why a value does not fit, in at most 300 characters.

        Processor time and memory grow with the visits of parts and values.
        """
        try:
            self._validator.validate(value)
        except UnicodeEncodeError:
            return f"{root}: {HALF_PAIR}"
        except ValidationError as error:
            where = spell_path(root, error.instance_path)
            return _bounded(f"{where}: {_reason(error)}")
        return f"{root}: {UNEXPLAINED}"  # not reached, unless the two passes disagree

    def cost_ns(self, extent: Extent) -> int:
        """Returns the most processor time to find out whether a value of this extent fits."""
        if not extent.plain:
            return sys.maxsize
        return self._parts.cost.time_ns(extent)


def extent_of(value: JsonValue, root: str) -> Extent:
    """Returns the extent of a value.

    Raises:
        MismatchError: too many levels.
    """
    values = numbers = chars = 0
    plain = True
    level: list[JsonValue] = [value]
    for depth in range(VALUE_DEPTH_MAX):
        values += len(level)
        below: list[JsonValue] = []
        for each in level:
            if isinstance(each, str):
                chars += len(each)
            elif isinstance(each, Mapping):
                chars += sum(map(len, each))
                below.extend(each.values())
            elif isinstance(each, list):
                below.extend(each)
            elif each is not None:
                numbers += 1
                plain = plain and is_plain(each)
        if not below:
            return Extent(
                levels=depth + 1,
                values=values + chars // _CHARS_AS_ONE_VALUE,
                numbers=numbers,
                chars=chars,
                plain=plain,
            )
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
