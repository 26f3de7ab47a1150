"""Runs a coroutine that has nothing to wait for, in the current iteration of the event loop."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import TypeVar

T = TypeVar("T")


def at_once(coroutine: Coroutine[object, None, T]) -> T:
    """Returns the coroutine's result. Fails if it waits for anything."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    coroutine.close()
    raise AssertionError(f"{coroutine} waits")
