"""The time that an operation of a remote store may take."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import ParamSpec, TypeVar

from precall_service.cache.base import StoreUnavailableError
from precall_service.domain.clock import Clock

P = ParamSpec("P")
T = TypeVar("T")


async def within(
    clock: Clock,
    timeout_s: float,
    operation: Callable[P, Awaitable[T]],
    *args: P.args,
    **kwargs: P.kwargs,
) -> T:
    """Returns what an operation returns.

    An event loop that was held up does not make it late: the answer may be there, and is read
    first.

    Raises:
        StoreUnavailableError: it takes too long; it was cancelled.
    """
    loop = asyncio.get_running_loop()
    due = clock.now() + timeout_s

    def expire() -> None:
        nonlocal timer
        if clock.now() - due > timeout_s / 10:
            timer = clock.call_later(timeout_s, expire_now)
        else:
            expire_now()

    def expire_now() -> None:
        scope.reschedule(loop.time())

    try:
        async with asyncio.timeout(None) as scope:
            timer = clock.call_later(timeout_s, expire)
            try:
                return await operation(*args, **kwargs)
            finally:
                timer.cancel()
    except TimeoutError:
        raise StoreUnavailableError(f"no answer within {timeout_s * 1000:.0f} ms") from None
