"""A bound on how long a write may wait for a client that does not read."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

from precall_service.domain.clock import Clock, Timer


class WriteWatch:
    """Ends its `async with` block with TimeoutError once a write in it has taken `limit_s`.

    All writes share one timer, since there are tens of thousands a second. It is not renewed while
    nothing is written.
    """

    __slots__ = ("_began_at", "_clock", "_limit_s", "_scope", "_timer")

    def __init__(self, clock: Clock, limit_s: float) -> None:
        self._clock = clock
        self._limit_s = limit_s
        self._scope = asyncio.timeout(None)
        self._began_at: float | None = None
        self._timer: Timer | None = None

    async def __aenter__(self) -> Self:
        await self._scope.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        if self._timer is not None:
            self._timer.cancel()
        return await self._scope.__aexit__(kind, error, traceback)

    def begin(self) -> None:
        """Notes that a write begins, and that the one before it has ended."""
        self._began_at = self._clock.now()
        if self._timer is None:
            self._timer = self._clock.call_later(self._limit_s, self._check)

    def end(self) -> None:
        """Notes that the last write has ended."""
        self._began_at = None

    def _check(self) -> None:
        self._timer = None
        if self._began_at is None:
            return
        left_s = self._began_at + self._limit_s - self._clock.now()
        if left_s > 0:
            self._timer = self._clock.call_later(left_s, self._check)
        else:
            self._scope.reschedule(asyncio.get_running_loop().time())
