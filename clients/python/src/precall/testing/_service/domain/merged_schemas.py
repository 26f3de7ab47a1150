# Copied from service/precall_service/domain/merged_schemas.py by `make gen`. Do not edit.
"""Merges schemas in their normal form: what satisfies both of them, or one of several.

Never: follows references.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, cast

from precall.testing._service.domain.json import JsonError, JsonObject, JsonValue, canonical

OPTIONS_MAX: Final = 64
"""The most options that merging may make of two lists of options."""
MERGES_MAX: Final = 4096
"""The most parts that are merged for one schema: some tenths of a second. Further ones stay in an
`allOf`."""

_VALUES_AS_ONE: Final = 16
"""The values of an enumeration that are as much work as one part."""

OPTIONS: Final = ("anyOf", "oneOf")
_GREATEST: Final = frozenset(
    {"exclusiveMinimum", "minContains", "minItems", "minLength", "minProperties", "minimum"}
)
_LEAST: Final = frozenset(
    {"exclusiveMaximum", "maxContains", "maxItems", "maxLength", "maxProperties", "maximum"}
)
_BOUNDS: Final = (
    ("minimum", "maximum"),
    ("minLength", "maxLength"),
    ("minItems", "maxItems"),
    ("minProperties", "maxProperties"),
)
_OF_TYPE: Final[Mapping[str, frozenset[str]]] = {
    "string": frozenset({"format", "maxLength", "minLength", "pattern"}),
    "number": frozenset(
        {"exclusiveMaximum", "exclusiveMinimum", "maximum", "minimum", "multipleOf"}
    ),
    "array": frozenset(
        {
            *("contains", "items", "maxContains", "maxItems", "minContains", "minItems"),
            *("prefixItems", "unevaluatedItems", "uniqueItems"),
        }
    ),
    "object": frozenset(
        {
            *("additionalProperties", "dependentRequired", "dependentSchemas", "maxProperties"),
            *("minProperties", "patternProperties", "properties", "propertyNames", "required"),
            "unevaluatedProperties",
        }
    ),
}
_TYPED: Final = frozenset(each for keywords in _OF_TYPE.values() for each in keywords)


class Merging:
    """Merges the parts of one schema, within a bound on its work."""

    def __init__(self) -> None:
        self._left = MERGES_MAX

    def merged(self, one: JsonObject | bool, other: JsonObject | bool) -> JsonObject | bool:
        """Returns the normal form of what satisfies both of two normal forms."""
        if one is False or other is False:
            return False
        if other is True or not other:
            return one
        if one is True or not one:
            return other
        values = sum(
            len(cast("Sequence[JsonValue]", each.get("enum", ()))) for each in (one, other)
        )
        self._left -= 1 + values // _VALUES_AS_ONE
        if self._left < 0 or any("allOf" in each or "$ref" in each for each in (one, other)):
            return _both(one, other)
        for first, second in ((one, other), (other, one)):
            keyword = next((each for each in OPTIONS if each in first), None)
            if keyword is not None:
                options = cast("Sequence[JsonObject | bool]", first[keyword])
                if len(options) * len(_options_of(second)) > OPTIONS_MAX:
                    return _both(one, other)
                return choice(keyword, [self.merged(each, second) for each in options])
        return self._keywords(one, other)

    def _keywords(self, one: JsonObject, other: JsonObject) -> JsonObject | bool:
        if "enum" in one or "enum" in other:
            return _merged_enum(one, other)
        one, other = self._closed(one, other), self._closed(other, one)
        both: dict[str, JsonValue] = {**other, **one}
        rest: dict[str, JsonValue] = {}
        for keyword in one.keys() & other.keys():
            first, second = one[keyword], other[keyword]
            if keyword == "type":
                types = {cast("str", first), cast("str", second)}
                if len(types) == 2 and types != {"integer", "number"}:
                    return False
                both[keyword] = "integer" if "integer" in types else first
            elif (found := self._values(keyword, first, second)) is not None:
                both[keyword] = found
            elif not same(first, second):
                rest[keyword] = second
        whole = _single(both, cast("str", both["type"])) if "type" in both else _satisfiable(both)
        return whole if isinstance(whole, bool) or not rest else _both(whole, rest)

    def _values(self, keyword: str, first: JsonValue, second: JsonValue) -> JsonValue:
        """Returns the value of a keyword that says what both values say; None if none does."""
        if keyword in _GREATEST:
            return max(cast("float", first), cast("float", second))
        if keyword in _LEAST:
            return min(cast("float", first), cast("float", second))
        match keyword:
            case "required":
                names = (*cast("Sequence[str]", first), *cast("Sequence[str]", second))
                return list(dict.fromkeys(names))
            case "additionalProperties" | "items":
                return self.merged(
                    cast("JsonObject | bool", first), cast("JsonObject | bool", second)
                )
            case "properties":
                return self._properties(cast("JsonObject", first), cast("JsonObject", second))
            case "uniqueItems":
                return bool(first or second)
            case _:
                return None

    def _properties(self, one: JsonObject, other: JsonObject) -> JsonObject:
        found: dict[str, JsonValue] = dict(one)
        for name, schema in other.items():
            part = cast("JsonObject | bool", schema)
            found[name] = (
                self.merged(cast("JsonObject | bool", one[name]), part) if name in one else part
            )
        return found

    def _closed(self, schema: JsonObject, other: JsonObject) -> JsonObject:
        """Returns a schema whose properties also satisfy what the other says of additional ones."""
        beyond = cast("JsonObject | bool", other.get("additionalProperties", True))
        if beyond is True or "properties" not in schema or "patternProperties" in other:
            return schema
        known = cast("JsonObject", other.get("properties", {}))
        properties: dict[str, JsonValue] = {}
        for name, each in cast("JsonObject", schema["properties"]).items():
            part = cast("JsonObject | bool", each)
            properties[name] = part if name in known else self.merged(part, beyond)
        return {**schema, "properties": properties}


def _options_of(schema: JsonObject) -> Sequence[JsonValue]:
    return cast(
        "Sequence[JsonValue]", next((schema[each] for each in OPTIONS if each in schema), (True,))
    )


def _both(one: JsonObject, other: JsonObject) -> JsonObject:
    parts: list[JsonValue] = []
    for each in (one, other):
        parts += cast("Sequence[JsonValue]", each["allOf"]) if set(each) == {"allOf"} else [each]
    return {"allOf": parts}


def choice(keyword: str, options: Iterable[JsonObject | bool]) -> JsonObject | bool:
    """Returns a choice of options. Those that no value satisfies are left out."""
    found: list[JsonValue] = []
    for option in options:
        if option is False:
            continue
        if keyword == "anyOf" and isinstance(option, Mapping) and set(option) == {"anyOf"}:
            found += cast("Sequence[JsonValue]", option["anyOf"])
        else:
            found.append(option)
    if not found:
        return False
    if len(found) == 1:
        return cast("JsonObject | bool", found[0])
    if keyword == "anyOf" and True in found:
        return True
    return {keyword: found}


def by_type(own: dict[str, JsonValue]) -> JsonObject | bool:
    """Returns a choice of single types, if there are several."""
    types = own.get("type")
    if "enum" in own:
        own.pop("type", None)
        values = cast("Sequence[JsonValue]", own["enum"])
        own["enum"] = values = [each for each in values if _is_of_type(each, types)]
        return own if values else False
    if isinstance(types, Sequence) and not isinstance(types, str):
        return choice("anyOf", [_single(own, cast("str", each)) for each in types])
    if isinstance(types, str):
        return _single(own, types)
    return own


def _single(own: Mapping[str, JsonValue], name: str) -> JsonObject | bool:
    """Returns what a schema says of values of one type."""
    kept = _OF_TYPE.get("number" if name == "integer" else name, frozenset[str]())
    found: dict[str, JsonValue] = {"type": name}
    found |= {
        keyword: value
        for keyword, value in own.items()
        if keyword != "type" and (keyword in kept or keyword not in _TYPED)
    }
    return _satisfiable(found)


def _satisfiable(schema: JsonObject) -> JsonObject | bool:
    """Returns the schema; False if its bounds or its properties contradict each other."""
    for least, most in _BOUNDS:
        if least in schema and most in schema:
            low, high = cast("float", schema[least]), cast("float", schema[most])
            if low > high:
                return False
    properties = cast("JsonObject", schema.get("properties", {}))
    for name in cast("Sequence[str]", schema.get("required", ())):
        known = properties.get(name, schema.get("additionalProperties", True))
        if known is False and "patternProperties" not in schema:
            return False
    return schema


def _merged_enum(one: JsonObject, other: JsonObject) -> JsonObject | bool:
    values = cast("Sequence[JsonValue]", one.get("enum", other.get("enum")))
    if "enum" in other:
        allowed = {spelled(each) for each in cast("Sequence[JsonValue]", other["enum"])}
        values = [each for each in values if spelled(each) in allowed]
    return by_type({**one, **other, "enum": values})


def _is_of_type(value: JsonValue, types: JsonValue) -> bool:
    names = (types,) if isinstance(types, str) else cast("Sequence[str] | None", types)
    return names is None or any(_is_of(value, name) for name in names)


def _is_of(value: JsonValue, name: str) -> bool:
    match name:
        case "null":
            return value is None
        case "boolean":
            return isinstance(value, bool)
        case "string":
            return isinstance(value, str)
        case "integer":
            whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
            return whole and not isinstance(value, bool)
        case "number":
            return isinstance(value, (int, float)) and not isinstance(value, bool)
        case "array":
            return isinstance(value, Sequence) and not isinstance(value, str)
        case _:
            return isinstance(value, Mapping)


def same(one: JsonValue, other: JsonValue) -> bool:
    """Whether two values are the same JSON."""
    return spelled(one) == spelled(other)


def spelled(value: JsonValue) -> bytes:
    """Returns a text that is the same for the same JSON: 1 and 1.0 are the same number."""
    try:
        return canonical(value)
    except JsonError:  # numbers beyond I-JSON, as in the 64-bit limits of many schemas
        return json.dumps(value, sort_keys=True).encode()
