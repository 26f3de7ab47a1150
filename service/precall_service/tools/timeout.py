"""A bound on a wait, by the `Clock`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from precall_service.domain.clock import Clock


@asynccontextmanager
async def within(clock: Clock, seconds: float) -> AsyncGenerator[None]:
    """Ends its block with TimeoutError after `seconds`.

    On cancel: the block is cancelled, as by `asyncio.timeout`, which does the work here; only the
    moment at which it fires comes from `clock`.
    """
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(None) as scope:
        timer = clock.call_later(seconds, lambda: scope.reschedule(loop.time()))
        try:
            yield
        finally:
            timer.cancel()
