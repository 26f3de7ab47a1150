"""Validates keyword arguments against a TypedDict, and explains an error in one sentence.

Owns: the annotated types that options are made of; each is described in words for error messages.
Never: checks the server's own limits; the server reports those itself.
"""

from __future__ import annotations

import difflib
import reprlib
import typing
from collections.abc import Mapping, Sequence
from typing import Annotated, Generic, TypeVar

import pydantic
import pydantic_core
from pydantic import Field
from pydantic.fields import FieldInfo

_SECONDS_MAX = 315_576_000_000  # the most that a protobuf Duration can hold: ten thousand years

# Constraint errors: the value has the right type, and is not allowed all the same.
_BAD_VALUES = frozenset(
    ("greater_than", "greater_than_equal", "less_than", "less_than_equal", "finite_number")
)

T = TypeVar("T")

Text = Annotated[str, Field(description="a string")]
Texts = Annotated[Sequence[str], Field(description="a list of strings")]
Flag = Annotated[bool, Field(description="True or False")]
Number = Annotated[float, Field(description="a number")]
Count = Annotated[int, Field(ge=1, lt=2**32, description="a whole number of at least 1")]
CountOrZero = Annotated[int, Field(ge=0, lt=2**32, description="a whole number of at least 0")]
Int32 = Annotated[int, Field(ge=-(2**31), lt=2**31, description="a whole number of 32 bits")]
Int64 = Annotated[int, Field(ge=-(2**63), lt=2**63, description="a whole number of 64 bits")]
UInt64 = Annotated[int, Field(ge=0, lt=2**64, description="a whole number of at least 0")]
Seconds = Annotated[
    float,
    Field(gt=0, le=_SECONDS_MAX, allow_inf_nan=False, description="a number of seconds above 0"),
]
SecondsOrZero = Annotated[
    float,
    Field(ge=0, le=_SECONDS_MAX, allow_inf_nan=False, description="a number of seconds from 0 on"),
]


class Validator(Generic[T]):
    """Validates mappings against one TypedDict, whose fields are all described."""

    def __init__(self, kind: type[T]) -> None:
        self._adapter = pydantic.TypeAdapter(kind)
        hints = typing.get_type_hints(kind, include_extras=True)
        self._allowed = {name: _words(hint) for name, hint in hints.items()}

    def validate(
        self, options: Mapping[str, object], label: str, *, bad_value: type[Exception] = ValueError
    ) -> T:
        """Returns the options as the TypedDict that they fit.

        Args:
            options: The options by name.
            label: The owner of the options, for the message.
            bad_value: The error to raise for a value that has the right type and is not allowed.

        Raises:
            TypeError: There is no such option, or its value has the wrong type.
        """
        try:
            return self._adapter.validate_python(options, strict=True, extra="forbid")
        except pydantic.ValidationError as error:
            problem = error.errors(include_url=False)[0]
        name = str(problem["loc"][0])
        if name not in self._allowed:
            nearest = difflib.get_close_matches(name, self._allowed, n=1)
            hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
            raise TypeError(f"{label}: there is no option {name!r}{hint}")
        value = options[name]
        kind = bad_value if _is_bad_value(problem) else TypeError
        raise kind(f"{label}: {name} is {reprlib.repr(value)}, and must be {self._allowed[name]}")


def _words(hint: object) -> str:
    metadata: tuple[object, ...] = getattr(hint, "__metadata__", ())
    return next(
        extra.description
        for extra in metadata
        if isinstance(extra, FieldInfo) and extra.description
    )


def _is_bad_value(problem: pydantic_core.ErrorDetails) -> bool:
    """Returns whether a value has the right type: a string is one where some strings are."""
    if problem["type"] == "literal_error":
        return isinstance(problem["input"], str)
    return problem["type"] in _BAD_VALUES
