"""What a grammar can hold a call's arguments to: a schema for xgrammar, and what it leaves out.

A keyword that the grammar cannot express is left out alone, with its path; the rest of the schema
holds. Arguments are checked against the whole schema again before a call is made.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, cast

from precall_service.domain.events import LoosenedKeyword
from precall_service.domain.json import JsonObject, JsonValue, spell_path
from precall_service.engine.vllm.ecma import PatternError
from precall_service.engine.vllm.patterns import whole_regex

ENUM_BYTES_MAX: Final = 64 << 10
"""The most characters of all the values of one enumeration."""
ENUM_NESTED_BYTES_MAX: Final = 8 << 10
"""The same if a value is an object or a list, which takes several rules of the grammar."""
COUNTED_MAX: Final = 24
"""The most optional properties beside a bound on their number: a grammar counts them in each order,
so it grows with their square, and its cost with more than that."""
OPTIONAL_PER_WEIGHT: Final = 1200
"""The optional properties of an object weigh as much as their number squared divided by this."""
ITEMS_MAX: Final = 128
"""The greatest bound on the items of a list that is held."""
TOOL_WEIGHT_MAX: Final = 1024
"""The greatest weight of all patterns, lengths and optional properties of one tool: about two
seconds to compile."""
INTEGER_MAX: Final = 2**53 - 1
"""The greatest bound of a number that is held."""
_SPENT: Final = "what is before it has used up what one tool may weigh"
_TOO_COSTLY: Final = "the tool took too long to compile with such keywords"
_FORMATS: Final = frozenset({"date", "uuid"})
"""Formats that mean the same to xgrammar, to handlers, and to RFC 3339 or RFC 9562."""
_UNHELD: Final = frozenset(
    {
        *("contains", "dependentRequired", "dependentSchemas", "else", "if", "maxContains"),
        *("minContains", "multipleOf", "not", "propertyNames", "then", "unevaluatedItems"),
        *("unevaluatedProperties", "uniqueItems"),
    }
)
_HELD: Final = frozenset(
    {
        *("$defs", "$ref", "additionalProperties", "allOf", "anyOf", "enum", "exclusiveMaximum"),
        *("exclusiveMinimum", "format", "items", "maxItems", "maxLength", "maxProperties"),
        *("maximum", "minItems", "minLength", "minProperties", "minimum", "oneOf", "pattern"),
        *("patternProperties", "prefixItems", "properties", "required", "type"),
    }
)


@dataclass(frozen=True, slots=True)
class Held:
    """A schema that xgrammar can compile, and what it leaves out of the one that was given."""

    schema: JsonObject | bool
    loosened: tuple[LoosenedKeyword, ...]


def held(normal: JsonObject | bool, *, costly: bool = True) -> Held:
    """Returns what a grammar can hold of a schema in its normal form.

    Without `costly`, it leaves out every keyword that has a weight.
    """
    holder = _Holder(costly=costly)
    return Held(holder.part(normal, ()), tuple(holder.loosened))


class _Holder:
    def __init__(self, *, costly: bool) -> None:
        self.loosened: list[LoosenedKeyword] = []
        self._weight_left = TOOL_WEIGHT_MAX if costly else 0
        self._spent = _SPENT if costly else _TOO_COSTLY

    def part(self, schema: JsonValue, path: tuple[str | int, ...]) -> JsonObject | bool:
        """Returns what can be held of a part of the schema."""
        if not isinstance(schema, Mapping):
            return schema is not False
        if "allOf" in schema:
            return self._first_of_all(schema, path)
        if "$ref" in schema:
            return {"$ref": schema["$ref"], **self._definitions(schema, path)}
        found: dict[str, JsonValue] = {}
        for keyword, value in self._affordable(schema, path).items():
            if keyword in _UNHELD:
                self._loosen(path, keyword, "grammars cannot hold it")
            elif keyword in _HELD:
                found |= self._keyword(schema, keyword, value, path)
        return _open_where_nothing_is_said(schema, found)

    def _affordable(self, schema: JsonObject, path: tuple[str | int, ...]) -> JsonObject:
        """Returns the schema without properties, or bounds on their number, that cost too much."""
        properties = schema.get("properties")
        if not isinstance(properties, Mapping):
            return schema
        required = set(cast("Sequence[str]", schema.get("required", ())))
        optional = sum(name not in required for name in properties)
        weight = optional**2 // OPTIONAL_PER_WEIGHT
        if weight > self._weight_left:
            self._loosen(path, "properties", f"{optional} optional ones, and {self._spent}")
            return {keyword: schema[keyword] for keyword in ("type", "$defs") if keyword in schema}
        self._weight_left -= weight
        kept = dict(schema)
        for keyword in _implied(schema, properties, required):
            del kept[keyword]
        for keyword in {"minProperties", "maxProperties"} & kept.keys():
            if optional > COUNTED_MAX:
                why = f"it is not held beside more than {COUNTED_MAX} optional properties"
                self._loosen(path, keyword, f"{why}, and there are {optional}")
                del kept[keyword]
        return kept

    def _keyword(
        self, schema: JsonObject, keyword: str, value: JsonValue, path: tuple[str | int, ...]
    ) -> Mapping[str, JsonValue]:
        here = (*path, keyword)
        match keyword:
            case "anyOf" | "oneOf":
                return {"anyOf": self._list(value, here)}
            case "prefixItems":
                return {
                    keyword: [each if each is not True else {} for each in self._list(value, here)]
                }
            case "properties" | "$defs":
                return {keyword: self._named(cast("JsonObject", value), here)}
            case "items":
                return {keyword: self.part(value, here)}
            case "additionalProperties" | "patternProperties":
                return self._more_properties(schema, keyword, value, path)
            case "enum":
                return self._enum(cast("Sequence[JsonValue]", value), path)
            case "minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum":
                return self._bound(schema, keyword, cast("float", value), path)
            case "minLength" | "maxLength" | "minItems" | "maxItems" | "pattern" | "format":
                return self._of_text_or_list(schema, keyword, value, path)
            case _:
                return {keyword: value}

    def _list(self, value: JsonValue, path: tuple[str | int, ...]) -> list[JsonValue]:
        parts = cast("Sequence[JsonValue]", value)
        return [self.part(each, (*path, index)) for index, each in enumerate(parts)]

    def _more_properties(
        self, schema: JsonObject, keyword: str, value: JsonValue, path: tuple[str | int, ...]
    ) -> Mapping[str, JsonValue]:
        if keyword == "patternProperties":
            self._loosen(path, keyword, "names are not held to patterns")
            return {"additionalProperties": True}
        if "patternProperties" in schema:
            return {}
        return {keyword: self.part(value, (*path, keyword))}

    def _of_text_or_list(
        self, schema: JsonObject, keyword: str, value: JsonValue, path: tuple[str | int, ...]
    ) -> Mapping[str, JsonValue]:
        if keyword == "pattern":
            return self._pattern(keyword, cast("str", value), path)
        if keyword != "format":
            return self._length(schema, keyword, cast("int", value), path)
        if value in _FORMATS and "pattern" not in schema:
            return {keyword: value}
        self._loosen(path, keyword, f"the format {value!r} is not held")
        return {}

    def _first_of_all(self, schema: JsonObject, path: tuple[str | int, ...]) -> JsonObject | bool:
        """Holds the first of several schemas that could not be merged."""
        parts = cast("Sequence[JsonValue]", schema["allOf"])
        for index in range(1, len(parts)):
            self._loosen((*path, "allOf"), index, "it cannot be merged with the first one")
        first = self.part(parts[0], (*path, "allOf", 0))
        more = self._definitions(schema, path)
        return {**first, **more} if isinstance(first, Mapping) else first

    def _definitions(
        self, schema: JsonObject, path: tuple[str | int, ...]
    ) -> Mapping[str, JsonValue]:
        if "$defs" not in schema:
            return {}
        return {"$defs": self._named(cast("JsonObject", schema["$defs"]), (*path, "$defs"))}

    def _named(self, parts: JsonObject, path: tuple[str | int, ...]) -> JsonObject:
        return {
            name: self.part(each, (*path, name))
            for name, each in parts.items()
            if each is not False
        }

    def _enum(
        self, values: Sequence[JsonValue], path: tuple[str | int, ...]
    ) -> Mapping[str, JsonValue]:
        size = sum(len(str(value)) for value in values)
        nested = any(isinstance(each, (Mapping, list)) for each in values)
        limit = ENUM_NESTED_BYTES_MAX if nested else ENUM_BYTES_MAX
        if size > limit:
            self._loosen(path, "enum", f"{size} characters, the limit is {limit}")
            return {}
        return {"anyOf": [_only(each) for each in values]} if nested else {"enum": values}

    def _pattern(
        self, keyword: str, pattern: str, path: tuple[str | int, ...]
    ) -> Mapping[str, JsonValue]:
        """Holds a pattern; `keyword` is what it stands for."""
        try:
            regex = whole_regex(pattern)
        except PatternError as error:
            self._loosen(path, keyword, f"grammars cannot hold {error}")
            return {}
        if regex.weight > self._weight_left:
            self._loosen(path, keyword, self._spent)
            return {}
        self._weight_left -= regex.weight
        if regex.loosened:
            self._loosen(path, keyword, regex.loosened)
        return {"pattern": regex.text}

    def _length(
        self, schema: JsonObject, keyword: str, value: int, path: tuple[str | int, ...]
    ) -> Mapping[str, JsonValue]:
        if keyword.endswith("Length"):
            if "pattern" in schema:
                self._loosen(path, keyword, "grammars cannot hold it beside a pattern")
                return {}
            if keyword == "minLength" and "maxLength" in schema:
                return {}  # both are one pattern
            return self._pattern(keyword, _of_length(schema), path)
        if value <= ITEMS_MAX:
            return {keyword: int(value)}
        self._loosen(path, keyword, f"bounds above {ITEMS_MAX} are not held")
        return {keyword: ITEMS_MAX} if keyword.startswith("min") else {}

    def _bound(
        self, schema: JsonObject, keyword: str, value: float, path: tuple[str | int, ...]
    ) -> Mapping[str, JsonValue]:
        if abs(value) > INTEGER_MAX:
            self._loosen(path, keyword, f"bounds beyond {INTEGER_MAX} are not held")
            return {}
        if schema.get("type") == "integer" and value != int(value):
            self._loosen(path, keyword, "a bound between two integers is not held")
            return {}
        return {keyword: int(value) if value == int(value) else value}

    def _loosen(self, path: tuple[str | int, ...], keyword: str | int, why: str) -> None:
        self.loosened.append(LoosenedKeyword(spell_path("$", (*path, keyword)), why))


def _implied(schema: JsonObject, properties: JsonObject, required: set[str]) -> Iterator[str]:
    """Yields the bounds on the number of properties that a grammar holds without them.

    It allows no additional properties unless the schema does.
    """
    if cast("float", schema.get("minProperties", math.inf)) <= len(required):
        yield "minProperties"
    closed = not schema.get("additionalProperties") and "patternProperties" not in schema
    if closed and cast("float", schema.get("maxProperties", -1)) >= len(properties):
        yield "maxProperties"


def _only(value: JsonValue) -> JsonObject:
    """Returns the schema of one value. xgrammar writes nested values without spaces."""
    if isinstance(value, Mapping):
        return {
            "type": "object",
            "properties": {name: _only(each) for name, each in value.items()},
            "required": list(value),
            "additionalProperties": False,
        }
    if isinstance(value, list):
        count = len(value)
        return {
            "type": "array",
            "prefixItems": [_only(each) for each in value],
            "items": False,
            "minItems": count,
            "maxItems": count,
        }
    return {"enum": [value]}


def _of_length(schema: JsonObject) -> str:
    """Returns the pattern of all texts of a length. xgrammar's own lengths allow no escapes."""
    most = schema.get("maxLength")
    least = int(cast("int", schema.get("minLength", 0)))
    return f"^[\\s\\S]{{{least},{'' if most is None else int(cast('int', most))}}}$"


def _open_where_nothing_is_said(schema: JsonObject, found: dict[str, JsonValue]) -> JsonObject:
    """Returns the schema for a grammar that closes what is left open.

    Such a grammar keeps a model from inventing parameters. An object without any properties and an
    array without any items are meant to be open, though.
    """
    if schema.get("type") == "object" and "properties" not in schema:
        found.setdefault("additionalProperties", True)
    if schema.get("type") == "array" and "prefixItems" not in schema:
        found.setdefault("items", True)
    return found
