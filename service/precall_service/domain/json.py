"""JSON text in and out, the same way everywhere."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import TypeAlias

JsonValue: TypeAlias = (
    "None | bool | int | float | str | Sequence[JsonValue] | Mapping[str, JsonValue]"
)
JsonObject: TypeAlias = Mapping[str, JsonValue]


class JsonError(ValueError):
    """The text is not JSON as RFC 8259 has it; the message says where."""


def parse(text: str) -> JsonValue:
    """The value of a JSON text.

    Raises:
        JsonError: not JSON; also for NaN, infinities and duplicate names, which RFC 8259 and
            RFC 8785 leave without a meaning, and for nesting deeper than Python can follow.
    """
    try:
        return json.loads(
            text,
            parse_float=_finite,
            parse_constant=_refuse_constant,
            object_pairs_hook=_unique_names,
        )
    except json.JSONDecodeError as error:
        raise JsonError(f"{error.msg} at line {error.lineno}, column {error.colno}") from None
    except JsonError:
        raise
    except ValueError:  # Python reads no integer of more than 4300 digits
        raise JsonError("a number has too many digits") from None
    except RecursionError:
        raise JsonError("nested too deeply") from None


def parse_object(text: str) -> JsonObject:
    """The value of a JSON text that holds an object.

    Raises:
        JsonError: not JSON (as in `parse`), or not an object.
    """
    value = parse(text)
    if not isinstance(value, dict):
        raise JsonError(f"an object is needed, this is {_kind(value)}")
    return value


def dump(value: JsonValue) -> str:
    """Compact JSON text of a value, in the order of its names."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def _refuse_constant(name: str) -> JsonValue:
    raise JsonError(f"{name} is not JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise JsonError(f"the number {digits[:40]} is too large")
    return number


def _unique_names(pairs: list[tuple[str, JsonValue]]) -> dict[str, JsonValue]:
    names = dict(pairs)
    if len(names) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise JsonError(f"the name {name[:80]!r} stands twice in one object")
            seen.add(name)
    return names


def _kind(value: JsonValue) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case str():
            return "a string"
        case _:
            return "an array"
