"""The outermost coroutine of a task that clients can have cancelled by the thousand."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def traceless(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Returns what the work returns. It is not begun if the task is cancelled before that.

    On cancel: the error keeps no traceback. Its frames hold the task group that has cancelled them,
    and with it the task and the error again: some hundred objects for each client that leaves,
    which only the garbage collection finds, all at once.
    """
    try:
        return await work()
    except asyncio.CancelledError as error:
        error.__traceback__ = None
        raise
