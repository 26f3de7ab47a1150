"""Schemas that cost much to hold a model to, each with the paths of what is not held."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypeAlias

from precall_service.domain.json import JsonObject

Case: TypeAlias = tuple[JsonObject, list[str]]


def _of(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _optional(count: int, **more: Any) -> JsonObject:
    names = [f"property_{number}" for number in range(count)]
    return {"type": "object", "properties": {name: {"type": "string"} for name in names}, **more}


def wide(count: int, seed: int) -> JsonObject:
    """A schema of so many properties, whose grammar has about as many rules."""
    names = [f"property_{seed}_{number}" for number in range(count)]
    return _of(**{name: {"type": "string"} for name in names})


def _patterned(count: int, pattern: str) -> JsonObject:
    parts = {
        f"p{number}": {"type": "string", "pattern": pattern.replace("N", str(number))}
        for number in range(count)
    }
    return {"type": "object", "properties": parts}


def _nested(levels: int) -> JsonObject:
    schema: dict[str, Any] = {"type": "integer"}
    for _ in range(levels):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


SLUG: Final[JsonObject] = _of(a={"type": "string", "pattern": "^[a-z0-9-]{1,255}$"})

FORESEEN: Final[Mapping[str, Case]] = {
    "a slug": (SLUG, ["$.properties.a.pattern"]),
    "long repetitions": (
        _patterned(8, "^[a-z]{1,3000}$"),
        [f"$.properties.p{number}.pattern" for number in range(8)],
    ),
    "letters": (
        _patterned(8, "^\\p{L}{1,20}$|zN"),
        [f"$.properties.p{number}.pattern" for number in range(8)],
    ),
    "10,000 values": (
        _of(a={"enum": [f"value number {number}" for number in range(10_000)]}),
        ["$.properties.a.enum"],
    ),
    "10,000 short values": (_of(a={"enum": [str(number) for number in range(10_000)]}), []),
    "1,000 required properties": (
        _optional(1000, required=[f"property_{number}" for number in range(1000)]),
        [],
    ),
    "2,000 properties": (_optional(2000), ["$.properties"]),
    "400 optional properties, of which 200": (
        _optional(400, minProperties=200),
        ["$.minProperties"],
    ),
    "60 levels": (_nested(60), []),
    "a cycle": (
        {"type": "object", "properties": {"next": {"$ref": "#"}, "name": {"type": "string"}}},
        [],
    ),
    "300 bounded numbers": (
        _of(
            **{
                f"n{number}": {"type": "number", "minimum": -123456.789, "maximum": 98765432.1}
                for number in range(300)
            }
        ),
        ["$"],
    ),
}
"""Schemas whose cost is estimated before it is paid."""

UNFORESEEN: Final[Mapping[str, Case]] = {
    "120 optional characters": (
        _of(a={"type": "string", "pattern": "^" + "".join(f"[a-z{n % 10}]?" for n in range(120))}),
        ["$.properties.a.pattern"],
    ),
}
"""Schemas that cost more than is estimated."""
