"""Wakes one coroutine that waits for something to change."""

from __future__ import annotations

import asyncio


class Wake:
    """What one coroutine at a time may wait for.

    It keeps nothing: who waits looks first whether it has to. An asyncio.Event takes 800 bytes, and
    every idle conversation would have several.
    """

    __slots__ = ("_waiter",)

    def __init__(self) -> None:
        self._waiter: asyncio.Future[None] | None = None

    def set(self) -> None:
        """Wakes what waits."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def wait(self) -> None:
        """Returns at the next `set`."""
        assert self._waiter is None, "only one may wait"
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None
