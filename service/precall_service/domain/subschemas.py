"""Where a JSON Schema (2020-12) holds other schemas, and where its references lead.

All other keywords, such as `const`, `default` or `examples`, hold data, in which a "$ref" is not a
reference.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

import referencing.exceptions
from referencing import Registry
from referencing.jsonschema import DRAFT202012, EMPTY_REGISTRY, Schema

from precall_service.domain.json import JsonObject, JsonValue

ONE: Final = frozenset(
    {
        "additionalProperties",
        "contains",
        "contentSchema",
        "else",
        "if",
        "items",
        "not",
        "propertyNames",
        "then",
        "unevaluatedItems",
        "unevaluatedProperties",
    }
)
"""Keywords that hold a schema."""
LIST: Final = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})
"""Keywords that hold a list of schemas."""
BY_NAME: Final = frozenset(
    {"$defs", "definitions", "dependentSchemas", "patternProperties", "properties"}
)
"""Keywords that hold schemas by name."""
REFERENCES: Final = ("$ref", "$dynamicRef")
"""Keywords that refer to a schema."""


def subschemas(schema: JsonObject) -> Iterator[tuple[str, JsonValue]]:
    """Yields the schemas in a schema, each with its path, such as `.anyOf[0]`."""
    for keyword, part in schema.items():
        if keyword in ONE:
            yield f".{keyword}", part
        elif keyword in LIST and isinstance(part, list):
            yield from ((f".{keyword}[{i}]", each) for i, each in enumerate(part))
        elif keyword in BY_NAME and isinstance(part, Mapping):
            yield from ((f".{keyword}.{name}", each) for name, each in part.items())


def references(schema: JsonObject) -> Iterator[tuple[str, str]]:
    """Yields the references of a schema itself, each after its keyword."""
    for keyword in REFERENCES:
        reference = schema.get(keyword)
        if isinstance(reference, str):
            yield keyword, reference


class Referred:
    """Finds what the references in one schema lead to."""

    def __init__(self, schema: JsonObject) -> None:
        resource = DRAFT202012.create_resource(schema)
        self._uri = resource.id() or ""
        self._registry = EMPTY_REGISTRY.with_resource(self._uri, resource)
        self._searched = False

    def by(self, reference: str) -> JsonValue:
        """Returns the part of the schema itself, not a copy.

        Raises:
            LookupError: it leads to nothing.
        """
        try:
            return self._registry_for(reference).resolver(self._uri).lookup(reference).contents
        # Pointers through lists and numbers raise what indexing them raises, and a search for
        # anchors what it raises in a schema that is no valid one.
        except (
            referencing.exceptions.Unresolvable,
            AttributeError,
            LookupError,
            TypeError,
            ValueError,
        ):
            raise LookupError(reference) from None

    def _registry_for(self, reference: str) -> Registry[Schema]:
        """Returns where to look. Anchors are searched for once, and not again for each of them."""
        anchor = reference.startswith("#") and not reference.startswith("#/") and reference != "#"
        if anchor and not self._searched:
            self._registry = self._registry.crawl()
            self._searched = True
        return self._registry
