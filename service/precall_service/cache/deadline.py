"""Limits the time that an operation of a remote store may take."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from precall_service.cache.base import StoreUnavailableError
from precall_service.domain.clock import Clock

T = TypeVar("T")


async def within(
    clock: Clock,
    timeout_s: float,
    operation: Callable[[], Awaitable[T]],
) -> T:
    """Awaits an operation for at most this time, and returns its result.

    If the event loop was blocked, the answer may have arrived but not been read yet. So if the
    timer itself is late, the operation gets the time once more. This does what `asyncio.timeout`
    does, but by the injected clock and at a third of the cost; that cost would be a tenth of a
    look-up.

    Raises:
        StoreUnavailableError: the operation took too long, and was cancelled.
    """
    task = asyncio.current_task()
    assert task is not None
    cancels_before = task.cancelling()
    due = clock.now() + timeout_s
    late = False

    def expire() -> None:
        nonlocal timer
        if clock.now() - due > timeout_s / 10:
            timer = clock.call_later(timeout_s, expire_now)
        else:
            expire_now()

    def expire_now() -> None:
        nonlocal late
        late = True
        task.cancel()

    timer = clock.call_later(timeout_s, expire)
    try:
        return await operation()
    except asyncio.CancelledError:
        # As in asyncio.timeout: only the timer has cancelled the task.
        if late and task.uncancel() <= cancels_before:
            message = f"no answer within {timeout_s * 1000:.0f} ms"
            raise StoreUnavailableError(message) from None
        raise
    finally:
        timer.cancel()
