"""The normal form of a JSON Schema: the same values, said in one way.

A schema can say one thing in many ways. Most programs that read schemas know a few of them: vLLM's
parsers look for a `type`, and grammars are built from the first keyword that is known. So both are
given the normal form, in which

- references are replaced by what they refer to, except those that lead back to themselves;
- `allOf` is merged into one schema;
- keywords beside `anyOf` or `oneOf` are moved into each of their options;
- a list of types is an `anyOf` with one type each, and `const` an `enum`;
- annotations are left out.

What cannot be merged stays in an `allOf`. A schema that no value can satisfy becomes `False`, where
that is evident.

Never: checks values. The schema must be a valid one (2020-12) whose references lead somewhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, cast

from precall_service.domain.json import JsonObject, JsonValue
from precall_service.domain.merged_schemas import OPTIONS, Merging, by_type, choice, same
from precall_service.domain.subschemas import (
    BY_NAME,
    LIST,
    ONE,
    REFERENCES,
    Referred,
    references,
    subschemas,
)

_ANNOTATIONS: Final = frozenset(
    {
        *("$anchor", "$comment", "$dynamicAnchor", "$id", "$schema", "$vocabulary"),
        *("contentEncoding", "contentMediaType", "contentSchema", "default", "deprecated"),
        *("description", "examples", "readOnly", "title", "writeOnly"),
    }
)
_DEFINITIONS: Final = frozenset({"$defs", "definitions"})
_UNSAID: Final = _ANNOTATIONS | _DEFINITIONS
_ELSEWHERE: Final = _UNSAID | {*REFERENCES, *OPTIONS, "allOf"}
"""Keywords that say nothing by themselves, or that are merged with the others."""


class EndlessReferenceError(ValueError):
    """A reference leads to nothing but itself."""


def normal_form(schema: JsonObject) -> JsonObject | bool:
    """Returns the normal form of a schema; False if no value can satisfy it.

    Raises:
        EndlessReferenceError: a reference leads to nothing but itself; the message is its path.
    """
    return _Normaliser(schema).whole()


class _Normaliser:
    def __init__(self, root: JsonObject) -> None:
        self._root = root
        self._referred_by = Referred(root).by
        self._merging = Merging()
        self._recursive: dict[int, str] = {}
        """The names of the definitions that lead back to themselves, by identity."""
        self._definitions: dict[str, JsonValue] = {}
        self._find_recursive(root, [], set())

    def whole(self) -> JsonObject | bool:
        found = self._part(self._root)
        if isinstance(found, bool) or not self._definitions:
            return found
        return {**found, "$defs": dict(self._definitions)}

    # References.

    def _find_recursive(self, part: JsonValue, above: list[int], done: set[int]) -> None:
        """Finds the parts to which a reference leads back, in and below a part."""
        if not isinstance(part, Mapping):
            return
        if id(part) in above:
            self._recursive.setdefault(id(part), f"part{len(self._recursive) + 1}")
            return
        if id(part) in done:
            return
        above.append(id(part))
        said = {name: each for name, each in part.items() if name not in _UNSAID}
        for _, each in subschemas(said):
            self._find_recursive(each, above, done)
        for _, reference in references(part):
            self._find_recursive(self._referred_by(reference), above, done)
        above.pop()
        done.add(id(part))

    def _referred(self, said: str) -> JsonObject | bool:
        """Returns the normal form of what a reference leads to."""
        target = self._referred_by(said)
        name = self._recursive.get(id(target))
        if name is None:
            return self._part(target)
        reference = f"#/$defs/{name}"
        if name not in self._definitions:
            self._definitions[name] = True
            found = self._part(target)
            if _leads_to(found, reference):
                raise EndlessReferenceError(said)
            self._definitions[name] = found
        return {"$ref": reference}

    # Parts.

    def _part(self, schema: JsonValue) -> JsonObject | bool:
        if not isinstance(schema, Mapping):
            return schema is not False
        parts: list[JsonObject | bool] = [self._own(schema)]
        parts += [self._referred(reference) for _, reference in references(schema)]
        for part in cast("Sequence[JsonValue]", schema.get("allOf", ())):
            parts.append(self._part(part))
        for keyword in OPTIONS:
            if keyword in schema:
                options = [
                    self._part(each) for each in cast("Sequence[JsonValue]", schema[keyword])
                ]
                parts.append(choice(keyword, options))
        found: JsonObject | bool = True
        for part in parts:
            found = self._merging.merged(found, part)
        return found

    def _own(self, schema: JsonObject) -> JsonObject | bool:
        """Returns the normal form of a schema's keywords without references and combinations."""
        own: dict[str, JsonValue] = {}
        for keyword, value in schema.items():
            if keyword in _ELSEWHERE:
                continue
            if keyword in ONE:
                own[keyword] = self._part(value)
            elif keyword in LIST:
                own[keyword] = [self._part(each) for each in cast("Sequence[JsonValue]", value)]
            elif keyword in BY_NAME:
                named = cast("JsonObject", value)
                own[keyword] = {name: self._part(each) for name, each in named.items()}
            elif keyword == "const":
                own["enum"] = [value]
            else:
                own[keyword] = value
        if "const" in schema and "enum" in schema:
            values = cast("Sequence[JsonValue]", schema["enum"])
            own["enum"] = [each for each in values if same(each, schema["const"])]
        return by_type(own)


def _leads_to(schema: JsonValue, reference: str) -> bool:
    """Whether a schema refers to this of the same value, and not of a part of it."""
    if not isinstance(schema, Mapping):
        return False
    parts = [
        part
        for keyword in ("allOf", *OPTIONS)
        for part in cast("Sequence[JsonValue]", schema.get(keyword, ()))
    ]
    return schema.get("$ref") == reference or any(_leads_to(part, reference) for part in parts)
