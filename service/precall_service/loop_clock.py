"""Time on the running event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from precall_service.domain.clock import Timer


class LoopClock:
    """The `Clock` of a running service. Concurrency: only for the event loop's thread."""

    def now(self) -> float:
        """Returns the seconds on the loop's monotonic clock."""
        return asyncio.get_running_loop().time()

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Timer:
        """Calls `callback` on the running loop once `delay_s` seconds have passed."""
        return asyncio.get_running_loop().call_later(delay_s, callback)
