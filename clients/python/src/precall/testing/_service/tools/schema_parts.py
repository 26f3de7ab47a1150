# Copied from service/precall_service/tools/schema_parts.py by `make gen`. Do not edit.
"""Bounds the work that a schema causes, before it is compiled, and says what checks will cost.

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
from precall.testing._service.tools.pattern_costs import pattern_cost
from precall.testing._service.tools.schema_costs import Cost, Extent, memory_bytes, own_cost

DEPTH_MAX: Final = 64
"""The most levels of JSON in one schema, far more than people write."""
REFERENCES_DEPTH_MAX: Final = 128
"""The most parts on a path from the root, with references followed."""
PARTS_MAX: Final = 10_000
"""The most parts, each counted as often as it is referred to."""
DATA_MAX: Final = 100_000
"""The most values and names that the parts hold, such as those of an `enum`, counted in the same
way."""
PATTERNS_MAX: Final = 64
"""The most regular expressions."""
PATTERNS_BYTES_MAX: Final = 6 << 20
"""The most memory of all compiled patterns of one schema, as estimated. To compile them takes 3 ns
for each byte, and keeps Python's lock. That is 4 patterns such as `^.{1,1000}$`, or 64 of the usual
kind."""
_UNEVALUATED: Final = ("unevaluatedItems", "unevaluatedProperties")
_EVALUATED_TIMES: Final = 3
"""How often the validator looks at parts beside these, to know what they have evaluated."""


_TRIVIAL: Final = Cost(parts=1)


class UnboundedSchemaError(ValueError):
    """The schema exceeds a limit; the message has the JSON path of the offending part."""


class SchemaParts:
    """The parts of a schema, with all its references followed.

    A part that leads back to itself is counted once, because the validator remembers the result of
    such a part for each value.

    Attributes:
        cost: The cost of all parts, each counted as often as it is referred to.
        held_bytes: An upper bound of the memory that the schema takes, compiled.
    """

    def __init__(self, schema: JsonObject) -> None:
        """Counts the parts.

        Raises:
            UnboundedSchemaError: a limit is exceeded, or a reference leads out of the schema or to
                nothing.
        """
        self.held_bytes = _measured(schema)
        self._root = schema
        self._referred = Referred(schema)
        self._costs: dict[int, Cost] = {}
        self._open: set[int] = set()
        self._patterns = 0
        self._patterns_bytes = 0
        self._recursive = False
        self._path: list[str] = []
        self.cost = self._cost("$", schema)

    def visits(self, extent: Extent) -> int:
        """Returns a bound on the visits of parts and values if mismatches are collected.

        The validator then remembers nothing: a part that leads back to itself is visited again in
        each of its ways.
        """
        parts = self.cost.parts
        ways = min(parts**extent.levels, sys.maxsize) if self._recursive else parts
        return ways * extent.values

    def _cost(self, step: str, schema: JsonValue) -> Cost:
        if not isinstance(schema, Mapping):
            return _TRIVIAL
        if id(schema) in self._open:
            self._recursive = True
            return _TRIVIAL
        if (known := self._costs.get(id(schema))) is not None:
            return known
        self._path.append(step)
        if len(self._open) == REFERENCES_DEPTH_MAX:
            raise self._error(
                f"more than {REFERENCES_DEPTH_MAX} parts inside one another, with references"
                " followed"
            )
        self._check_keywords(schema)
        self._open.add(id(schema))
        cost = own_cost(schema)
        for below, part in chain(subschemas(schema), self._targets(schema)):
            cost = cost.plus(self._cost(below, part))
        self._open.remove(id(schema))
        for count, what, most in (
            (cost.parts, "parts", PARTS_MAX),
            (cost.data, "values and names in its keywords", DATA_MAX),
        ):
            if count > most:
                raise self._error(
                    f"has {count} {what}, each counted as often as it is referred to; the limit is"
                    f" {most}"
                )
        self._path.pop()
        if any(keyword in schema for keyword in _UNEVALUATED):
            cost = cost.done_again(_EVALUATED_TIMES)
        self._costs[id(schema)] = cost
        return cost

    def _check_keywords(self, schema: JsonObject) -> None:
        if schema is not self._root and ("$id" in schema or "$schema" in schema):
            raise self._error("$id and $schema are allowed at the root alone")
        by_pattern = schema.get("patternProperties")
        patterns = [schema["pattern"]] if "pattern" in schema else []
        patterns.extend(by_pattern if isinstance(by_pattern, Mapping) else ())
        for pattern in patterns:
            cost = pattern_cost(str(pattern))
            self._patterns += 1
            self._patterns_bytes += cost.compiled_bytes
            self.held_bytes += cost.held_bytes
        if self._patterns > PATTERNS_MAX:
            raise self._error(f"one pattern more than the {PATTERNS_MAX} that a schema may have")
        if self._patterns_bytes > PATTERNS_BYTES_MAX:
            raise self._error(
                f"its patterns would take {self._patterns_bytes >> 10} KiB, the limit for one"
                f" schema is {PATTERNS_BYTES_MAX >> 10} KiB; use fewer patterns, lower bounds in"
                " them, or maxLength"
            )

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


def _measured(schema: JsonObject) -> int:
    """Returns the memory of all values of a schema, if it is not too deep."""
    size_bytes = 0
    level: list[JsonValue] = [schema]
    for _ in range(DEPTH_MAX):
        size_bytes += sum(map(memory_bytes, level))
        level = [part for value in level for part in _parts(value)]
        if not level:
            return size_bytes
    raise UnboundedSchemaError(f"$: nested deeper than {DEPTH_MAX} levels")


def _parts(value: JsonValue) -> Iterable[JsonValue]:
    if isinstance(value, Mapping):
        return value.values()
    if isinstance(value, list):
        return value
    return ()
