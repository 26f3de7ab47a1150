"""Turns what a handler returned into the JSON text of its result.

Owns: what becomes of values that JSON does not have. Iterators are drawn as far as a result may be
long, halves of surrogate pairs are replaced by "?", and everything else is refused, by its place.
Concurrency: a writer is used where its handler runs, in a thread or on the event loop. On the loop
it draws no iterator, which might block; that is for a thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import math
from collections import deque
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Iterator
from typing import Final, TypeAlias, cast

import pydantic
import pydantic_core

Place: TypeAlias = tuple[str | int, ...]

_SCALARS: Final = (int, bool, type(None))
_ARRAYS: Final = (list, tuple, set, frozenset, deque)
_BYTES_MAX: Final = 64 << 20
"""How much is drawn from an iterator for a server that states no limit."""
_SMALLEST_BYTES: Final = 2
"""A value in an array takes at least a character and a comma."""


class ResultError(Exception):
    """A result cannot be sent. `kind` is the type of the error for the model."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class LazyResultError(Exception):
    """A result holds an iterator, which has to be drawn in a thread."""


class ResultWriter:
    """Writes the result of one run."""

    def __init__(self, bytes_max: int, stopped: Callable[[], bool]) -> None:
        """Makes a writer.

        Args:
            bytes_max: The server's limit for a result; 0 if it has none.
            stopped: Whether the run is over, so that nothing more needs to be drawn.
        """
        self._bytes_max = bytes_max
        self._stopped = stopped

    def write(self, value: object) -> str:
        """Returns the JSON text of a value, and draws the iterators in it.

        Raises:
            ResultError: The value does not become JSON, or its text is too long.
            Exception: An iterator raised it.
        """
        return self._write(value, _Plain(self._bytes_max, self._stopped))

    def write_ready(self, value: object) -> str:
        """Returns the JSON text of a value without drawing anything.

        Raises:
            ResultError: The value does not become JSON, or its text is too long.
            LazyResultError: It holds an iterator.
        """
        return self._write(value, _Plain(self._bytes_max, None))

    async def write_drawn(self, source: AsyncIterator[object]) -> str:
        """Returns the JSON text of the array of everything that an async iterator gives.

        Raises:
            ResultError: The array does not become JSON, or its text is too long.
            Exception: The iterator raised it.

        On cancel: the iterator is closed.
        """
        plain = _Plain(self._bytes_max, None)
        drawn: list[pydantic.JsonValue] = []
        async with contextlib.AsyncExitStack() as stack:
            if (close := getattr(source, "aclose", None)) is not None:
                stack.push_async_callback(close)
            async for part in source:
                with _explained(source):
                    try:
                        drawn.append(plain.value(part, (len(drawn),)))
                    except LazyResultError:
                        text = "it gave an iterator, which may block; give lists"
                        raise _NotJsonError(text, (len(drawn),)) from None
                plain.check_size(source, len(drawn))
                await asyncio.sleep(0)  # an iterator that never waits would stop the event loop
        return self._text(drawn)

    def _write(self, value: object, plain: _Plain) -> str:
        try:
            return self._text(value)  # many times as fast, where it is enough
        except (TypeError, ValueError, RecursionError):
            with _explained(value):
                written = plain.value(value, ())
        try:
            return self._text(written)
        except ValueError as problem:  # an integer of thousands of digits
            raise ResultError("ResultNotSerializable", f"the result: {problem}") from problem

    def _text(self, value: object) -> str:
        """Returns the text of dicts, lists, strings and finite numbers.

        Raises:
            TypeError, ValueError, RecursionError: The value holds something else.
            ResultError: The text is too long.
        """
        written = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        # A frame holds only valid UTF-8, and a text may hold half a surrogate pair.
        encoded = written.encode("utf-8", "replace")
        if self._bytes_max and len(encoded) > self._bytes_max:
            raise ResultError(
                "ResultTooLarge",
                f"the result has {len(encoded):,} bytes, the limit is {self._bytes_max:,}; "
                "return less, or return where to find it",
            )
        return encoded.decode()


class _NotJsonError(Exception):
    """A part of a result is not JSON."""

    def __init__(self, problem: str, place: Place) -> None:
        where = "".join(f"[{step!r}]" for step in place)
        super().__init__(f"{problem} (at result{where})" if place else problem)


@contextlib.contextmanager
def _explained(value: object) -> Generator[None]:
    """Turns what is wrong with a part of a value into the error of its result."""
    try:
        yield
    except (_NotJsonError, RecursionError) as problem:
        circular = isinstance(problem, RecursionError)
        said = "Circular reference, or nested too deeply" if circular else str(problem)
        raise ResultError(
            "ResultNotSerializable",
            f"the handler returned {type(value).__name__}, which does not become JSON: {said}; "
            "return strings, finite numbers, lists, dicts, dataclasses or pydantic models",
        ) from problem


class _Plain:
    """Makes values of dicts, lists, strings and numbers from those of one result."""

    def __init__(self, bytes_max: int, stopped: Callable[[], bool] | None) -> None:
        self._bytes_max = bytes_max or _BYTES_MAX
        self._stopped = stopped
        self._size = 0

    def value(self, value: object, place: Place) -> pydantic.JsonValue:
        self._size += _SMALLEST_BYTES
        kind = type(value)
        if isinstance(value, str) and kind is str:
            self._size += len(value)
            return value
        if isinstance(value, float) and kind is float:
            return _finite(value, place)
        if isinstance(value, _SCALARS) and kind in _SCALARS:
            return value
        if isinstance(value, dict):
            return self._object(cast("dict[object, object]", value).items(), place)
        if isinstance(value, _ARRAYS):
            parts = cast("Iterable[object]", value)
            return [self.value(part, (*place, index)) for index, part in enumerate(parts)]
        if isinstance(value, Iterator):
            return self._drawn(cast("Iterator[object]", value), place)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            if hasattr(value, "__pydantic_serializer__"):
                return self._of_pydantic(value, place)
            fields = dataclasses.fields(value)
            return self._object(
                ((field.name, getattr(value, field.name)) for field in fields), place
            )
        return self._of_pydantic(value, place)

    def check_size(self, source: object, count: int) -> None:
        """Raises an error if what was drawn is longer than a result may be."""
        if self._size > self._bytes_max:
            raise ResultError(
                "ResultTooLarge",
                f"the handler returned {type(source).__name__}, which had given more than "
                f"{self._bytes_max:,} bytes, the limit, after {count:,} items; return fewer",
            )

    def _object(
        self, items: Iterable[tuple[object, object]], place: Place
    ) -> dict[str, pydantic.JsonValue]:
        plain: dict[str, pydantic.JsonValue] = {}
        for key, part in items:
            name = key if isinstance(key, str) else _name(key, place)
            self._size += len(name)
            plain[name] = self.value(part, (*place, name))
        return plain

    def _drawn(self, source: Iterator[object], place: Place) -> list[pydantic.JsonValue]:
        if self._stopped is None:
            raise LazyResultError
        drawn: list[pydantic.JsonValue] = []
        for part in source:
            if self._stopped():
                raise ResultError("TimeoutError", "the run ended while its result was drawn")
            drawn.append(self.value(part, (*place, len(drawn))))
            self.check_size(source, len(drawn))
        return drawn

    def _of_pydantic(self, value: object, place: Place) -> pydantic.JsonValue:
        infinite = False
        for part in _within(value):
            infinite = infinite or (isinstance(part, float) and not math.isfinite(part))
            if isinstance(part, Iterator):
                lazy = type(part).__name__  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
                text = f"{type(value).__name__} holds a {lazy}, which is not drawn; make it a list"
                raise _NotJsonError(text, place)
        try:
            plain: pydantic.JsonValue = pydantic_core.to_jsonable_python(value)
            shown: object = plain
            if infinite:  # pydantic may have made it null, or be configured to make it a text
                plain = pydantic_core.from_json(pydantic_core.to_json(value))
                shown = _as_python(value)
        except (ValueError, TypeError) as problem:
            raise _NotJsonError(str(problem), place) from problem
        _check_finite(shown, plain, place)
        return plain


def _finite(number: float, place: Place) -> float:
    if not math.isfinite(number):
        raise _NotJsonError(f"JSON has no number {number}", place)
    return number


def _name(key: object, place: Place) -> str:
    if key is None:
        return "null"
    try:
        plain: dict[str, object] = pydantic_core.to_jsonable_python({key: None})
    except (ValueError, TypeError) as problem:
        raise _NotJsonError(str(problem), place) from problem
    return next(iter(plain))


def _within(value: object) -> Iterator[object]:
    """Yields the values in a model or dataclass of pydantic, also those in lists and dicts."""
    waiting: list[object] = [value]
    seen: set[int] = set()
    while waiting:
        found = waiting.pop()
        if id(found) in seen:
            continue
        seen.add(id(found))
        yield found
        inside: Iterable[object] = ()
        if isinstance(found, dict):
            inside = cast("dict[object, object]", found).values()
        elif isinstance(found, _ARRAYS):
            inside = cast("Iterable[object]", found)
        elif isinstance(found, pydantic.BaseModel):
            inside = [*vars(found).values(), *(found.model_extra or {}).values()]
        elif dataclasses.is_dataclass(found) and not isinstance(found, type):
            inside = [getattr(found, field.name, None) for field in dataclasses.fields(found)]
        waiting.extend(inside)


def _as_python(value: object) -> object:
    """Returns a model or dataclass of pydantic as a dict, with its numbers as they are."""
    serializer = getattr(type(value), "__pydantic_serializer__", None)
    if not isinstance(serializer, pydantic_core.SchemaSerializer):
        return value
    return serializer.to_python(value, by_alias=True)


def _check_finite(value: object, written: pydantic.JsonValue, place: Place) -> None:
    """Raises an error for a number that is not finite and was not written as a text."""
    if isinstance(value, float) and not isinstance(written, str):
        _finite(value, place)
    elif isinstance(value, dict) and isinstance(written, dict):
        for name, part in cast("dict[object, object]", value).items():
            _check_finite(part, written.get(str(name)), (*place, str(name)))
    elif isinstance(value, list | tuple) and isinstance(written, list):
        parts = cast("Iterable[object]", value)
        for index, (part, other) in enumerate(zip(parts, written, strict=False)):
            _check_finite(part, other, (*place, index))
