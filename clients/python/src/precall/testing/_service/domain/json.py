# Copied from service/precall_service/domain/json.py by `make gen`. Do not edit.
"""Reads and writes JSON text in the same way everywhere.

JSON can spell half of a surrogate pair, such as U+D800. `parse` accepts it, as RFC 8259 does.
UTF-8, protobuf, tokenizers and the validator of schemas do not: code that gives a parsed value to
one of them first refuses such halves (`find_half_pair`) or replaces them (`without_half_pairs`).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, TypeAlias, cast

import msgspec
import rfc8785

from precall.testing._service.domain.text import encodable

JsonValue: TypeAlias = (
    "None | bool | int | float | str | Sequence[JsonValue] | Mapping[str, JsonValue]"
)
JsonObject: TypeAlias = Mapping[str, JsonValue]

HALF_PAIR: Final = "holds half of a surrogate pair, which is not a character"

_MAY_BE_HALF_PAIR: Final = re.compile(r"\\u[dD][89a-fA-F]|[\ud800-\udfff]")
_HALF_PAIR: Final = re.compile("[\ud800-\udfff]")
_NUMBER_CHARS_MAX: Final = 40
_INTEGER_MAX: Final = 2**53 - 1
_ENCODER: Final = msgspec.json.Encoder(order="deterministic")


class JsonError(ValueError):
    """A text is not JSON as RFC 8259 defines it, or a value has no canonical text.

    The message says what is wrong and, if that is known, where.
    """


def parse(text: str) -> JsonValue:
    """Returns the value of a JSON text.

    Raises:
        JsonError: not JSON; also for NaN, infinities and duplicate names, to which RFC 8259 and
            RFC 8785 give no meaning, and for nesting deeper than Python can follow.
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
    except ValueError:  # Python does not read integers of more than 4300 digits
        raise JsonError("a number has too many digits") from None
    except RecursionError:
        raise JsonError("nested too deeply") from None


def parse_object(text: str) -> JsonObject:
    """Returns the value of a JSON text that is an object.

    Raises:
        JsonError: not JSON (as in `parse`), or not an object.
    """
    value = parse(text)
    if not isinstance(value, dict):
        raise JsonError(f"expected an object, found {_kind(value)}")
    return value


def dump(value: JsonValue) -> str:
    """Returns the compact JSON text of a value, with names in their given order."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def canonical(value: JsonValue) -> bytes:
    """Returns the canonical JSON text of a value (RFC 8785): equal values have equal bytes.

    Raises:
        JsonError: the value is outside of I-JSON (RFC 7493): an integer beyond 2^53 - 1, a number
            that is not finite, half of a surrogate pair, a name that is not a string, or nesting
            deeper than Python can follow.
    """
    try:
        # msgspec is about fifty times as fast. Its text differs only for some floating point
        # numbers, and in the order of names that are not ASCII.
        if _is_plain(value):
            try:
                return _ENCODER.encode(value)
            except UnicodeEncodeError:  # half of a surrogate pair, which is reported below
                pass
        return rfc8785.dumps(value)
    except rfc8785.IntegerDomainError as error:
        number = str(error).split(maxsplit=1)[0][:_NUMBER_CHARS_MAX]
        raise JsonError(f"the integer {number} is beyond 2^53 - 1") from None
    except rfc8785.FloatDomainError as error:
        raise JsonError(str(error)) from None
    except RecursionError:
        raise JsonError("nested too deeply") from None
    except ValueError as error:
        if UnicodeEncodeError in (type(error), type(error.__cause__)):
            raise JsonError(f"{find_half_pair(value, '$')}: {HALF_PAIR}") from None
        # The library's message, or Python's for an integer of more than 4300 digits.
        raise JsonError(str(error)) from None


def may_hold_half_pair(text: str) -> bool:
    """Returns whether a JSON text has an escape or a character that may be half of a pair.

    This is cheap because it reads only the text. It is also true if the text spells both halves.
    """
    return _MAY_BE_HALF_PAIR.search(text) is not None


def find_half_pair(value: JsonValue, root: str) -> str | None:
    """Returns where a string or name in a value holds half of a surrogate pair, or None.

    The place starts with `root`, as in `spell_path`.
    """
    waiting: list[tuple[tuple[str | int, ...], JsonValue]] = [((), value)]
    while waiting:
        path, part = waiting.pop()
        if isinstance(part, str):
            if _HALF_PAIR.search(part):
                return spell_path(root, path)
        elif isinstance(part, Mapping):
            if any(map(_HALF_PAIR.search, part)):
                return f"a name in {spell_path(root, path)}"
            waiting.extend(((*path, name), inner) for name, inner in part.items())
        elif isinstance(part, Sequence):
            waiting.extend(((*path, index), inner) for index, inner in enumerate(part))
    return None


def without_half_pairs(value: JsonValue) -> JsonValue:
    """Returns the value with "?" in place of each half of a surrogate pair.

    If that makes names of one object equal, the last one counts.

    Raises:
        JsonError: nested deeper than Python can follow.
    """
    try:
        return cast("JsonValue", json.loads(encodable(dump(value))))
    except RecursionError:
        raise JsonError("nested too deeply") from None


def spell_path(root: str, path: Iterable[str | int]) -> str:
    """Returns a path as text, such as `arguments.cities[0]['a name']`."""
    steps = (
        f".{step}" if isinstance(step, str) and step.isidentifier() else f"[{step!r}]"
        for step in path
    )
    return root + "".join(steps)


def _is_plain(value: JsonValue) -> bool:
    """Returns whether msgspec writes a value exactly as RFC 8785 does.

    It sorts names beyond ASCII differently, and writes some floating point numbers differently.
    """
    try:
        return _are_plain((value,))
    except TypeError:  # a name is not a string
        return False


def _are_plain(values: Iterable[JsonValue]) -> bool:
    for value in values:
        kind = type(value)
        if kind is str or kind is bool or value is None:
            continue
        if kind is dict:
            inner = cast("dict[str, JsonValue]", value)
            if not (all(map(str.isascii, inner)) and _are_plain(inner.values())):
                return False
        elif kind is list:
            if not _are_plain(cast("list[JsonValue]", value)):
                return False
        elif kind is int:
            if not -_INTEGER_MAX <= cast("int", value) <= _INTEGER_MAX:
                return False
        elif kind is not float or not _is_plain_float(cast("float", value)):
            return False
    return True


def _is_plain_float(value: float) -> bool:
    """Returns whether all encoders write a number in the same way: without an exponent or ".0"."""
    return 1e-4 <= abs(value) < 1e16 and not value.is_integer()


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
                raise JsonError(f"the name {name[:80]!r} occurs twice in one object")
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
