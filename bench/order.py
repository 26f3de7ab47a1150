"""The order in which the arms of a bench are measured."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import TypeVar

_Arm = TypeVar("_Arm")


def rotated(arms: Iterable[_Arm], number: int) -> list[_Arm]:
    """Returns the arms in the order of a round, given its number: each begins with another arm."""
    order = deque(arms)
    order.rotate(-number)
    return list(order)
