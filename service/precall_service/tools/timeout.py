"""Bounds a wait by the `Clock`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from precall_service.domain.clock import Clock


@asynccontextmanager
async def within(clock: Clock, seconds: float) -> AsyncGenerator[None]:
    """Raises TimeoutError in its block after `seconds`.

    `asyncio.timeout` does the work; only the time at which it fires comes from the clock.

    On cancel: the block is cancelled.
    """
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(None) as scope:
        timer = clock.call_later(seconds, lambda: scope.reschedule(loop.time()))
        try:
            yield
        finally:
            timer.cancel()
