"""Where the arguments of the next call may come from: the user's text, and the calls until now.

A *source* is a place such as "the first quoted text", "the path `id` in the result of the last call
of `create`", or "the last argument named `path`". It has a hash, and in a situation it has values.
Every source may also be transformed (`values.TRANSFORMATIONS`); a *pointer* is a source with a
transformation.
"""

from __future__ import annotations

from collections import Counter
from typing import Final, TypeAlias

from cachetools import LRUCache

from precall_service.domain.json import JsonValue
from precall_service.speculation.base import PastCall, Situation
from precall_service.speculation.predictors.history.text import Reading
from precall_service.speculation.predictors.history.values import (
    TRANSFORMATIONS,
    Path,
    core,
    parts_of,
    read,
    spelled,
    transformed,
    written,
)
from precall_service.speculation.predictors.history.weights import keyed, mixed

CALLS_MAX: Final = 16
"""The number of calls before the next one that are looked at."""
READ_BYTES_MAX: Final = 1 << 20
"""The size of the parts of calls that are kept, so that a call is read once in a turn."""
PART_BYTES: Final = 300
"""What a part takes besides its text and value."""
POINTERS_MAX: Final = 32
"""The most pointers to one value."""
SAME_TOOL_MAX: Final = 2
"""How many of the last calls of one tool are sources."""

_SHIFT: Final = 4
_MASK: Final = (1 << _SHIFT) - 1
assert len(TRANSFORMATIONS) <= 1 << _SHIFT

_Found: TypeAlias = tuple[JsonValue, str]
_Parts: TypeAlias = "list[tuple[JsonValue, str, int, int]]"
"""For each part: its value, its canonical text, and the hashes of where it is with and without the
name of the tool."""


def pointer(source: int, transformation: int) -> int:
    """Returns the hash of a source with a transformation."""
    return source << _SHIFT | transformation


class Sources:
    """The values that each source has in a situation."""

    def __init__(self) -> None:
        self._by_source: dict[int, list[_Found]] = {}
        self._cores: dict[str, str | None] = {}

    def add(self, source: int, value: JsonValue, text: str) -> None:
        """Adds a value of a source."""
        self._by_source.setdefault(source, []).append((value, text))

    def add_first(self, source: int, value: JsonValue, text: str) -> None:
        """Adds a value of a source that has only one: the first that is added."""
        self._by_source.setdefault(source, [(value, text)])

    def values(self, key: int) -> list[_Found]:
        """Returns the values of a pointer with their canonical texts."""
        found = self._by_source.get(key >> _SHIFT)
        if found is None:
            return []
        transformation = key & _MASK
        return [each for each in (_changed(*one, transformation) for one in found) if each]

    def pointers(self, value: JsonValue, text: str) -> list[int]:
        """Returns the pointers that have this value. At most one transformation of each source."""
        found: list[int] = []
        matches: dict[str, int | None] = {}
        part = core(value)
        for source, values in self._by_source.items():
            for other, own in values:
                if own not in matches:
                    matches[own] = self._match(other, own, part, text)
                if (transformation := matches[own]) is not None:
                    found.append(pointer(source, transformation))
                    break
        return found[:POINTERS_MAX]

    def _match(self, value: JsonValue, own: str, part: str | None, text: str) -> int | None:
        """Returns the first transformation that makes a value equal to a text with this core."""
        if own == text:
            return 0
        if own not in self._cores:
            self._cores[own] = core(value)
        whole = self._cores[own]
        if not part or whole is None or part not in whole:
            return None
        for transformation in TRANSFORMATIONS[1:]:
            changed = _changed(value, own, transformation)
            if changed is not None and changed[1] == text:
                return transformation
        return None


def _changed(value: JsonValue, text: str, transformation: int) -> _Found | None:
    if transformation == 0:
        return value, text
    changed = transformed(value, transformation)
    new = None if changed is None else written(changed)
    return None if new is None else (changed, new)


class CallReader:
    """Finds the sources of situations. Keeps what it read of calls."""

    def __init__(self) -> None:
        self._read: LRUCache[tuple[str, int, int], tuple[_Parts, _Parts]] = LRUCache(
            READ_BYTES_MAX, getsizeof=_size
        )

    def sources(self, situation: Situation, text: Reading) -> Sources:
        """Returns the sources of a situation."""
        sources = Sources()
        recent = (*situation.earlier[-CALLS_MAX:], *situation.calls)[-CALLS_MAX:]
        in_turn = len(situation.calls)
        used: set[str] = set()
        used_in_turn: set[str] = set()
        same: Counter[str] = Counter()
        for back, call in enumerate(reversed(recent)):
            arguments, results = self._parts(call)
            nth = same[call.tool_name]
            same[call.tool_name] += 1
            for value, text_of, place, name in arguments:
                used.add(text_of)
                if back < in_turn:
                    used_in_turn.add(text_of)
                if nth < SAME_TOOL_MAX:
                    sources.add(mixed(place, nth), value, text_of)
                if nth == 0:
                    sources.add_first(name, value, text_of)
            for value, text_of, place, name in results:
                if nth < SAME_TOOL_MAX:
                    sources.add(mixed(place, nth), value, text_of)
                if back == 0:
                    sources.add(name, value, text_of)
        _add_spans(sources, text, used, used_in_turn)
        return sources

    def _parts(self, call: PastCall) -> tuple[_Parts, _Parts]:
        arguments = written(call.arguments)
        # The hashes of the texts, not the texts: a result may be large.
        key = (call.tool_name, hash(arguments), hash(call.result_json))
        found = None if arguments is None else self._read.get(key)
        if found is None:
            found = (
                _keyed_parts("a", call.tool_name, call.arguments),
                _keyed_parts("r", call.tool_name, read(call.result_json)),
            )
            if _size(found) <= READ_BYTES_MAX:
                self._read[key] = found
        return found


def _size(parts: tuple[_Parts, _Parts]) -> int:
    return sum(PART_BYTES + 2 * len(text) for each in parts for _, text, _, _ in each)


def _keyed_parts(kind: str, tool_name: str, value: JsonValue) -> _Parts:
    return [
        (
            part.value,
            part.text,
            keyed(kind, tool_name, spelled(part.path)),
            _name_key(kind, part.path),
        )
        for part in parts_of(value)
        if part.value is not None and (part.path or kind == "r")
    ]


def _name_key(kind: str, path: Path) -> int:
    """Arguments are also found by their last name, whatever the tool; results by their path."""
    return keyed("n", kind, spelled(path[-1:] if kind == "a" else path))


def _add_spans(sources: Sources, text: Reading, used: set[str], used_in_turn: set[str]) -> None:
    """Adds the spans of the text; those not used yet are also counted by themselves."""
    unused: Counter[str] = Counter()
    for span in text.spans:
        for key in span.keys:
            sources.add(key, span.value, span.text)
        if span.kind == "word":
            continue
        if span.text in used_in_turn:
            sources.add(keyed("t", "used", span.kind), span.value, span.text)
        else:
            rank = unused[span.kind]
            unused[span.kind] += 1
            sources.add(keyed("t", "unused", span.kind, str(rank)), span.value, span.text)
        if span.text in used:
            sources.add(keyed("t", "used before", span.kind), span.value, span.text)
