"""Checks settings that come as keyword arguments, and says in words what is wrong with which.

Never: what the server decides. Its limits are its own, and it says them better.
"""

from __future__ import annotations

import difflib
import math
import reprlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

_DURATION_MAX_S = 315_576_000_000  # what a Duration of protobuf holds: ten thousand years


@dataclass(frozen=True, slots=True)
class Rule:
    """What a setting has to be."""

    words: str
    """Said of a value that is not."""
    fits: Callable[[Any], bool]
    """Whether a value has the type."""
    holds: Callable[[Any], bool] = lambda _: True
    """Whether a value of the type is one that is allowed."""


def check(
    given: Mapping[str, object],
    rules: Mapping[str, Rule],
    label: str,
    *,
    bad_value: type[Exception] = ValueError,
) -> None:
    """Returns when every setting is known and keeps to its rule.

    Args:
        given: The settings by name.
        rules: The rules by name.
        label: Whose settings they are, for the message.
        bad_value: What is raised for a value of the right type that is not allowed.

    Raises:
        TypeError: There is no such setting, or its value is of another type.
    """
    for name, value in given.items():
        rule = rules.get(name)
        if rule is None:
            nearest = difflib.get_close_matches(name, rules, n=1)
            hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
            raise TypeError(f"{label}: there is no option {name!r}{hint}")
        if rule.fits(value) and rule.holds(value):
            continue
        kind = bad_value if rule.fits(value) else TypeError
        raise kind(f"{label}: {name} is {reprlib.repr(value)}, and must be {rule.words}")


def one_of(*allowed: str) -> Rule:
    """Returns the rule for one of a few words."""
    return Rule(" or ".join(f'"{word}"' for word in allowed), _text, lambda value: value in allowed)


def _text(value: object) -> bool:
    return isinstance(value, str)


def _texts(value: object) -> bool:
    if isinstance(value, str) or not isinstance(value, Sequence):
        return False
    return all(map(_text, cast(Sequence[object], value)))


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _time(value: float) -> bool:
    return math.isfinite(value) and value <= _DURATION_MAX_S


TEXT = Rule("a text", _text)
TEXTS = Rule("a list of texts", _texts)
FLAG = Rule("True or False", lambda value: isinstance(value, bool))
NUMBER = Rule("a number", _number)
COUNT = Rule("a whole number of at least 1", _whole, lambda value: 1 <= value < 2**32)
COUNT_OR_ZERO = Rule("a whole number, not below 0", _whole, lambda value: 0 <= value < 2**32)
INT32 = Rule("a whole number of 32 bits", _whole, lambda value: -(2**31) <= value < 2**31)
INT64 = Rule("a whole number of 64 bits", _whole, lambda value: -(2**63) <= value < 2**63)
TIME = Rule("a number of seconds above 0", _number, lambda value: _time(value) and value > 0)
TIME_OR_ZERO = Rule("a number of seconds, not below 0", _number, lambda v: _time(v) and v >= 0)
