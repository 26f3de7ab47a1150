"""Time as the service sees it: monotonic, and replaceable in tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class Timer(Protocol):
    """A callback that has been scheduled."""

    def cancel(self) -> None:
        """Cancels the callback. Idempotent; does nothing once the callback was called."""
        ...


class Clock(Protocol):
    """The only source of time and timers for deadlines, hold times and expiry."""

    def now(self) -> float:
        """Returns the seconds on a monotonic clock since an arbitrary origin."""
        ...

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Timer:
        """Calls `callback` on the event loop once `delay_s` seconds have passed."""
        ...
