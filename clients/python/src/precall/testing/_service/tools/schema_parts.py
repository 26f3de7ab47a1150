# Copied from service/precall_service/tools/schema_parts.py by `make gen`. Do not edit.
"""Bounds the work that a schema causes, before it is compiled.

A validator visits a part of a schema once for each path that leads to it. With references, a short
schema can have 2^n paths to one part; such a schema is refused here. So are references to other
documents, and sizes that only a hostile schema needs.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Final

from precall.testing._service.domain.json import JsonObject, JsonValue
from precall.testing._service.domain.subschemas import Referred, references, subschemas

DEPTH_MAX: Final = 64
"""The most levels of JSON in one schema, far more than people write."""
REFERENCES_DEPTH_MAX: Final = 128
"""The most parts on a path from the root, with references followed."""
PARTS_MAX: Final = 10_000
"""The most parts, each counted as often as it is referred to."""
PATTERNS_MAX: Final = 64
"""The most regular expressions: each takes milliseconds to compile and up to 1 MiB of memory."""


class UnboundedSchemaError(ValueError):
    """The schema exceeds a limit; the message has the JSON path of the offending part."""


class SchemaParts:
    """The parts of a schema, with all its references followed.

    A part that leads back to itself is counted once, because the validator remembers the result of
    such a part for each value.
    """

    def __init__(self, schema: JsonObject) -> None:
        """Counts the parts.

        Raises:
            UnboundedSchemaError: a limit is exceeded, or a reference leads out of the schema or to
                nothing.
        """
        _check_depth(schema)
        self._root = schema
        self._referred = Referred(schema)
        self._counts: dict[int, int] = {}
        self._open: set[int] = set()
        self._patterns = 0
        self._recursive = False
        self._path: list[str] = []
        self.count = self._count("$", schema)

    def visits(self, depth: int) -> int:
        """Returns a bound on the visits for a value with `depth` levels, if none is remembered.

        The validator remembers nothing where it collects all mismatches.
        """
        return min(self.count**depth, sys.maxsize) if self._recursive else self.count

    def _count(self, step: str, schema: JsonValue) -> int:
        if not isinstance(schema, Mapping):
            return 1
        if id(schema) in self._open:
            self._recursive = True
            return 1
        if (known := self._counts.get(id(schema))) is not None:
            return known
        self._path.append(step)
        if len(self._open) == REFERENCES_DEPTH_MAX:
            raise self._error(
                f"more than {REFERENCES_DEPTH_MAX} parts inside one another, with references"
                " followed"
            )
        self._check_keywords(schema)
        self._open.add(id(schema))
        count = 1
        for below, part in chain(subschemas(schema), self._targets(schema)):
            count += self._count(below, part)
        self._open.remove(id(schema))
        if count > PARTS_MAX:
            raise self._error(
                f"has {count} parts, each counted as often as it is referred to; the limit is"
                f" {PARTS_MAX}"
            )
        self._path.pop()
        self._counts[id(schema)] = count
        return count

    def _check_keywords(self, schema: JsonObject) -> None:
        if schema is not self._root and ("$id" in schema or "$schema" in schema):
            raise self._error("$id and $schema are allowed at the root alone")
        self._patterns += "pattern" in schema
        by_pattern = schema.get("patternProperties")
        self._patterns += len(by_pattern) if isinstance(by_pattern, Mapping) else 0
        if self._patterns > PATTERNS_MAX:
            raise self._error(f"one pattern more than the {PATTERNS_MAX} that a schema may have")

    def _targets(self, schema: JsonObject) -> Iterator[tuple[str, JsonValue]]:
        for keyword, reference in references(schema):
            if not reference.startswith("#"):
                self._path.append(f".{keyword}")
                raise self._error(f"{reference!r} refers to another document; copy it to $defs")
            try:
                yield reference, self._referred.by(reference)
            except LookupError:
                self._path.append(f".{keyword}")
                raise self._error(f"there is no {reference!r}") from None

    def _error(self, problem: str) -> UnboundedSchemaError:
        """Returns the error for the current part, with its path from the last reference on."""
        last = max((i for i, step in enumerate(self._path) if step[0] in "#$"), default=0)
        return UnboundedSchemaError(f"{''.join(self._path[last:])}: {problem}")


def _check_depth(schema: JsonObject) -> None:
    level: list[JsonValue] = [schema]
    for _ in range(DEPTH_MAX):
        level = [part for value in level for part in _parts(value)]
        if not level:
            return
    raise UnboundedSchemaError(f"$: nested deeper than {DEPTH_MAX} levels")


def _parts(value: JsonValue) -> Iterable[JsonValue]:
    if isinstance(value, Mapping):
        return value.values()
    if isinstance(value, list):
        return value
    return ()
