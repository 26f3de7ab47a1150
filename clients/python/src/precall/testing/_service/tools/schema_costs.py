# Copied from service/precall_service/tools/schema_costs.py by `make gen`. Do not edit.
"""What one part of a schema costs: the work of checking a value against it, and its memory.

Times are upper bounds, measured with jsonschema_rs 0.60 on a core of 2026; a test measures them
again. What matters is not the number of parts but what they hold: numbers that are not equal are
compared as fractions, at a microsecond each, while a thousand texts are one look-up.

Never: follows references, or compiles anything.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from precall.testing._service.domain.json import JsonObject, JsonValue
from precall.testing._service.tools.pattern_costs import pattern_cost

STATE_NS: Final = 3
"""For each state of a pattern and each character."""
LOOK_NS: Final = 1
"""For each state of a pattern that looks around, and each pair of characters."""

_PART_NS: Final = 150
_NAME_NS: Final = 30
_VALUE_NS: Final = 300
_NUMBER_NS: Final = 2_500
_ODD_NUMBER_NS: Final = 60_000
_UNIQUE_NS: Final = 20_000
"""Up to 15 items are compared with each other, and more are hashed."""
_CHARS_AS_ONE: Final = 8
_CHARS_AS_DATA: Final = 64

_MAPPING_BYTES: Final = 1000
_NAME_BYTES: Final = 200
_OTHER_BYTES: Final = 200
_CHAR_BYTES: Final = 8

_NUMBERS: Final = frozenset(
    {"exclusiveMaximum", "exclusiveMinimum", "maximum", "minimum", "multipleOf"}
)
_COSTLY: Final = _NUMBERS | {
    *("const", "dependentRequired", "dependentSchemas", "enum", "pattern", "patternProperties"),
    *("properties", "required", "uniqueItems"),
}
_INTEGER_MAX: Final = 2**63
_FRACTION_MIN: Final = 1e-9


class Extent(NamedTuple):
    """The size of a value.

    Attributes:
        levels: The levels of JSON.
        values: The values in it. A long text or name counts as several.
        numbers: Those of them that are numbers.
        chars: The characters of all texts and names.
        plain: Whether all its numbers are `is_plain`.
    """

    levels: int
    values: int
    numbers: int
    chars: int
    plain: bool


class Cost(NamedTuple):
    """The cost of a part with all that is in it. Costs add up.

    Attributes:
        parts: The schemas.
        data: The values and names that they hold.
        value_ns: Time for each value that is checked.
        number_ns: Time for each number, in addition.
        level_ns: Time for each value and each level of JSON above it.
        states: The states of patterns, each of which may take STATE_NS for each character.
        looks: The states of those that look around or back.
    """

    parts: int = 0
    data: int = 0
    value_ns: int = 0
    number_ns: int = 0
    level_ns: int = 0
    states: int = 0
    looks: int = 0

    def time_ns(self, extent: Extent) -> int:
        """Returns an upper bound of the time to find out whether a value fits."""
        return (
            extent.values * self.value_ns
            + extent.numbers * self.number_ns
            + extent.values * extent.levels * self.level_ns
            + extent.chars * self.states * STATE_NS
            + extent.chars**2 * self.looks * LOOK_NS
        )

    def plus(self, other: Cost) -> Cost:
        """Returns the sum."""
        return Cost(
            self.parts + other.parts,
            self.data + other.data,
            self.value_ns + other.value_ns,
            self.number_ns + other.number_ns,
            self.level_ns + other.level_ns,
            self.states + other.states,
            self.looks + other.looks,
        )

    def done_again(self, times: int) -> Cost:
        """Returns the cost of parts that are looked at so often for each value."""
        return self._replace(
            value_ns=self.value_ns * times,
            number_ns=self.number_ns * times,
            level_ns=self.level_ns * times,
            states=self.states * times,
            looks=self.looks * times,
        )


def own_cost(part: JsonObject) -> Cost:
    """Returns what a part of a schema costs without the schemas in it."""
    cost = Cost(parts=1, value_ns=_PART_NS)
    for keyword in _COSTLY & part.keys():
        cost = cost.plus(_of_keyword(keyword, part[keyword]))
    return cost


def _of_keyword(keyword: str, value: JsonValue) -> Cost:
    match keyword:
        case "const":
            return _of_options((value,))
        case "enum" if isinstance(value, list):
            return _of_options(value)
        case "required" | "properties" | "dependentSchemas" if isinstance(value, (list, Mapping)):
            return Cost(data=len(value), value_ns=_looking_up(value))
        case "dependentRequired" if isinstance(value, Mapping):
            lists = [each for each in (value, *value.values()) if isinstance(each, (list, Mapping))]
            return Cost(data=sum(map(len, lists)), value_ns=sum(map(_looking_up, lists)))
        case "uniqueItems" if value is True:
            return Cost(level_ns=_UNIQUE_NS)
        case "pattern":
            return _of_patterns((value,))
        case "patternProperties" if isinstance(value, Mapping):
            return _of_patterns(value)
        case _ if keyword in _NUMBERS:
            return Cost(number_ns=_NUMBER_NS if is_plain(value) else _ODD_NUMBER_NS)
        case _:
            return Cost()


def _of_options(options: Sequence[JsonValue]) -> Cost:
    """Returns the cost of comparing a value with all options."""
    if all(isinstance(each, str) for each in options):
        return Cost(data=_size(options), value_ns=_NAME_NS)  # the validator looks it up
    numbers = [each for each in options if isinstance(each, (int, float))]
    return Cost(
        data=_size(options),
        value_ns=_comparing(each for each in options if not isinstance(each, (int, float)))
        + _VALUE_NS * len(numbers),
        number_ns=_comparing(numbers),
    )


def _of_patterns(patterns: Iterable[JsonValue]) -> Cost:
    costs = [pattern_cost(str(pattern)) for pattern in patterns]
    return Cost(
        states=sum(each.states for each in costs),
        looks=sum(each.states for each in costs if each.looks),
    )


def is_plain(value: JsonValue) -> bool:
    """Returns whether a value is no number, or one that is quickly compared.

    Others are fractions of thousands of digits, of which one comparison can take a millisecond.
    """
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return True
    if isinstance(value, float) and (math.isnan(value) or 0 < abs(value) < _FRACTION_MIN):
        return False
    return abs(value) <= _INTEGER_MAX * 2


def _looking_up(names: Iterable[JsonValue]) -> int:
    return sum(_NAME_NS * (1 + len(str(name)) // _CHARS_AS_ONE) for name in names)


def _comparing(options: Iterable[JsonValue]) -> int:
    """Returns the time to compare a value with each of the options, to the end."""
    values = list(options)
    time_ns = 0
    while values:
        value = values.pop()
        if isinstance(value, str):
            time_ns += _NAME_NS * (1 + len(value) // _CHARS_AS_ONE)
        elif isinstance(value, Mapping):
            time_ns += _VALUE_NS + _looking_up(value)
            values.extend(value.values())
        elif isinstance(value, list):
            time_ns += _VALUE_NS
            values.extend(value)
        else:
            time_ns += _NUMBER_NS if is_plain(value) else _ODD_NUMBER_NS
    return time_ns


def _size(values: Iterable[JsonValue]) -> int:
    size, waiting = 0, list(values)
    while waiting:
        value = waiting.pop()
        size += 1 + (len(value) // _CHARS_AS_DATA if isinstance(value, str) else 0)
        if isinstance(value, Mapping):
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)
    return size


def memory_bytes(part: JsonValue) -> int:
    """Returns an upper bound of the memory of a schema: as a value, and compiled without patterns.

    This is for one value, without those in it.
    """
    if isinstance(part, Mapping):
        return _MAPPING_BYTES + sum(_NAME_BYTES + len(name) * _CHAR_BYTES for name in part)
    if isinstance(part, str):
        return _OTHER_BYTES + len(part) * _CHAR_BYTES
    return _OTHER_BYTES
