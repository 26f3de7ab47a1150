"""The parts of JSON values: where they are, and small transformations of them.

Everything is bounded: a client can make arguments and results large and deep.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice, pairwise
from typing import Final, TypeAlias

import msgspec

from precall_service.domain.json import JsonError, JsonObject, JsonValue, canonical, spell_path

Path: TypeAlias = tuple[str | int, ...]

PARTS_MAX: Final = 48
"""The most parts of a value that are looked at."""
DEPTH_MAX: Final = 6
ITEMS_MAX: Final = 8
"""A longer array of arguments is one value, and of a result only the first and last items count."""
LEAVES_MAX: Final = 16
"""The most leaves of the arguments of a call that is learned whole."""
RESULT_CHARS_MAX: Final = 32 << 10
"""Longer results are not looked into."""
VALUE_CHARS_MAX: Final = 2048
"""Longer values are not proposed."""
TRANSFORMED_CHARS_MAX: Final = 256
"""Longer texts are only proposed as they are."""


class Part(msgspec.Struct, frozen=True):
    """A part of a value: its path, the value, and its canonical text."""

    path: Path
    value: JsonValue
    text: str


def written(value: JsonValue) -> str | None:
    """Returns the canonical text of a value; None if it has none, or if it is too long."""
    if isinstance(value, str) and len(value) > VALUE_CHARS_MAX:
        return None
    try:
        text = canonical(value).decode()
    except JsonError:
        return None
    return text if len(text) <= VALUE_CHARS_MAX else None


def read(text: str | None) -> JsonValue:
    """Returns the value of a result; None if it is too long or not readable."""
    if text is None or len(text) > RESULT_CHARS_MAX:
        return None
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None


def arguments_of(value: JsonObject) -> list[tuple[Path, JsonValue]] | None:
    """Returns the leaves of the arguments of a call; None if there are too many of them.

    A leaf is neither an object nor an array, or it is empty, too deep, or an array that is long.
    """
    found: list[tuple[Path, JsonValue]] = []
    waiting: list[tuple[Path, JsonValue]] = [((), value)]
    while waiting:
        path, part = waiting.pop()
        inner = _inside(part, ITEMS_MAX + 1) if len(path) < DEPTH_MAX else []
        if inner and (len(inner) <= ITEMS_MAX or isinstance(part, Mapping)):
            waiting.extend(((*path, step), each) for step, each in reversed(inner))
        elif path:
            found.append((path, part))
        if len(found) + len(waiting) > LEAVES_MAX:
            return None
    return found


def assembled(leaves: Sequence[tuple[Path, JsonValue]]) -> JsonObject:
    """Returns the object that has these leaves: the inverse of `arguments_of`."""
    root: dict[str, JsonValue] = {}
    for path, value in leaves:
        place: dict[str, JsonValue] | list[JsonValue] = root
        for step, following in pairwise(path):
            place = _entered(place, step, [] if isinstance(following, int) else {})
        if isinstance(place, dict):
            place[str(path[-1])] = value
        else:
            place.append(value)
    return root


def _entered(
    place: dict[str, JsonValue] | list[JsonValue],
    step: str | int,
    new: dict[str, JsonValue] | list[JsonValue],
) -> dict[str, JsonValue] | list[JsonValue]:
    if isinstance(place, dict):
        inner = place.setdefault(str(step), new)
    else:
        if len(place) <= int(step):
            place.append(new)
        inner = place[int(step)]
    assert isinstance(inner, dict | list)
    return inner


def parts_of(value: JsonValue) -> Iterator[Part]:
    """Yields the parts of a value, itself included, the outer ones first.

    Of an array, the first items and the last one count; the last one has the index -1.
    """
    waiting: list[tuple[Path, JsonValue]] = [((), value)]
    for count in range(PARTS_MAX):
        if count >= len(waiting):
            return
        path, part = waiting[count]
        if (text := written(part)) is not None:
            yield Part(path, part, text)
        if len(path) < DEPTH_MAX and len(waiting) < PARTS_MAX:
            waiting.extend(((*path, step), each) for step, each in _inside(part, ITEMS_MAX))
            if isinstance(part, Sequence) and not isinstance(part, str) and part:
                waiting.append(((*path, -1), part[-1]))


def _inside(value: JsonValue, items_max: int) -> list[tuple[str | int, JsonValue]]:
    """Returns what an object contains, or the first items of an array."""
    if isinstance(value, Mapping):
        return list(islice(value.items(), PARTS_MAX))
    if isinstance(value, Sequence) and not isinstance(value, str):
        return list(enumerate(value[:items_max]))
    return []


def spelled(path: Path) -> str:
    """Returns a path as text."""
    return spell_path("", path)


def number_of(text: str) -> int | float | None:
    """Returns the number that a text spells, with or without separated thousands."""
    digits = text.replace(",", "")
    if len(digits) > 20:
        return None
    try:
        return int(digits)
    except ValueError:
        pass
    try:
        number = float(digits)
    except ValueError:
        return None
    return number if abs(number) < 1e300 else None  # neither infinite nor NaN


def _cut(text: str, mark: str, index: int) -> str:
    parts = text.strip(mark).split(mark)
    return parts[index] if len(parts) > 1 else ""


_OF_TEXT: Final[tuple[Callable[[str], str], ...]] = (
    str.lower,
    str.upper,
    str.title,
    lambda text: text.strip(" .,;:!?#@/'\""),
    lambda text: f"#{text}",
    lambda text: f"@{text}",
    lambda text: _cut(text, "/", -1),
    lambda text: text.rpartition("/")[0],
    lambda text: _cut(text, "/", 0),
    lambda text: text.rpartition(".")[0],
    lambda text: _cut(text, ".", -1),
    lambda text: text.lower().replace(" ", "_"),
    lambda text: f"{text}.",
)
TRANSFORMATIONS: Final = range(1 + len(_OF_TEXT) + 1)
"""Their numbers are part of the format of records. 0 changes nothing."""
_BETWEEN_TEXT_AND_NUMBER: Final = TRANSFORMATIONS[-1]


def core(value: JsonValue) -> str | None:
    """Returns what no transformation adds to: the letters and digits of a short text or a number.

    If the core of one value is not in that of another, no transformation makes it of the other.
    """
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    text = str(value).lower()
    return "".join(filter(str.isalnum, text)) if len(text) <= TRANSFORMED_CHARS_MAX else None


def transformed(value: JsonValue, number: int) -> JsonValue:
    """Returns a transformed value; None if the transformation does not apply or changes nothing."""
    if number == _BETWEEN_TEXT_AND_NUMBER:
        if isinstance(value, str):
            return number_of(value)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return str(value)
        return None
    if not isinstance(value, str) or len(value) > TRANSFORMED_CHARS_MAX:
        return None
    changed = _OF_TEXT[number - 1](value)
    return changed if changed and changed != value else None
