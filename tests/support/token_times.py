"""Turns on an engine whose time of a token follows a curve, under a `LatencyControl`."""

from __future__ import annotations

from collections.abc import Callable

from precall_service.admission.latency import WINDOW_TOKENS, LatencyControl
from tests.support.clock import ManualClock

TARGET_S = 0.05
WINDOWS = 60


class Turns:
    """As many turns as may run, of those that want to.

    `curve` is the time of a token by the number of turns. While speculation runs, it is longer by
    the factor `beside`. Turns end as soon as fewer may run, if `ends` is set.
    """

    def __init__(self, curve: Callable[[int], float], *, wanted: int = 1000) -> None:
        self.clock = ManualClock()
        self.control = LatencyControl(self.clock, TARGET_S)
        self.curve = curve
        self.wanted = wanted
        self.beside = 1.0
        self.ends = True
        self.running = 0

    @property
    def token_s(self) -> float:
        """How long a token takes now."""
        speculating = self.beside > 1.0 and self.control.width > 0
        return self.curve(self.running) * (self.beside if speculating else 1.0)

    def measure(self) -> int:
        """Lets turns generate until a window is complete. Returns how many may run then."""
        while True:
            allowed = min(self.wanted, self.control.turns_max)
            self.running = allowed if self.ends else max(self.running, allowed)
            speculating = self.beside > 1.0 and self.control.width > 0
            self.clock.advance(0.25)
            if self.control.observe(
                WINDOW_TOKENS * self.token_s,
                WINDOW_TOKENS,
                turns=self.running,
                speculating=speculating,
            ):
                waiting = self.wanted > self.running >= self.control.turns_max
                self.control.decide(waiting=waiting)
                return self.control.turns_max

    def settle(self, windows: int = WINDOWS) -> None:
        """Lets turns generate for so many windows."""
        for _ in range(windows):
            self.measure()
