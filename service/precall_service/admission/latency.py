"""Decides how many turns may run, and how wide speculation may be, so that tokens come in time.

The time of a token is measured in windows, over all turns that generate. In a window that was too
slow, speculation is made narrower first, if there was any, and then fewer turns may run:

    turns at most = turns * target / time of a token

If tokens come well in time, more may run, by the same formula. An engine's time of a token grows by
less than in proportion to the turns, since a part of it is the same for any number. The formula
therefore stays below the number that fits, and comes closer to it with each window. While a turn
waits, one more than that is tried. What was too slow is remembered, and tried again after a time
that doubles with each failure.

Owns: the latest window, the most turns, the width of speculation.
Never: ends a turn, or knows which turns run.
Concurrency: synchronous.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from precall_service.domain.clock import Clock

WINDOW_S: Final = 1.0
WINDOW_TOKENS: Final = 64
"""A window is at least so long, and has at least so many tokens."""
SETTLE_S: Final = 1.0
"""After a change, no tokens are counted for such a time: the prompts of the turns that were just
admitted delay those of the others."""
CALM: Final = 0.9
"""The fraction of the target up to which a turn more is tried."""
NARROWER: Final = 4.0
"""The factor by which speculation is made narrower and wider."""
WIDTH_MIN: Final = 1 / 4
"""A narrower one is none."""
RETRY_FIRST_S: Final = 5.0
RETRY_MAX_S: Final = 60.0


class _Retry:
    """When to try again what has failed. Each failure of it doubles the wait."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._wait_s = RETRY_FIRST_S
        self._due_at: float | None = None

    @property
    def due(self) -> bool:
        """Whether it may be tried."""
        return self._due_at is None or self._clock.now() >= self._due_at

    def fail(self, *, again: bool) -> None:
        """Notes a failure; `again` if what failed is what was tried again."""
        self._wait_s = min(2 * self._wait_s, RETRY_MAX_S) if again else RETRY_FIRST_S
        self._due_at = self._clock.now() + self._wait_s

    def succeed(self) -> None:
        """Forgets the failures."""
        self._wait_s, self._due_at = RETRY_FIRST_S, None


@dataclass(slots=True)
class _Window:
    """What was measured since a time; the turns are weighted by the tokens."""

    since: float
    seconds: float = 0.0
    tokens: int = 0
    turns: int = 0
    speculated: bool = False


class LatencyControl:
    """Keeps the mean time of a token under a target. Times are in seconds."""

    def __init__(self, clock: Clock, target_s: float) -> None:
        self._clock = clock
        self._target_s = target_s
        self._window = _Window(clock.now())
        self._fits = 0
        """The most turns whose tokens came in time, as far as is known."""
        self._too_slow: int | None = None
        """The fewest turns whose tokens did not."""
        self._too_wide: float | None = None
        """The width of speculation whose tokens did not."""
        self._more = _Retry(clock)
        self._wider = _Retry(clock)
        self.turns_max = 1
        """How many turns may run at once, at least 1."""
        self.width = 1.0
        """How much speculation may run beside them, from 0 to 1."""

    def observe(self, seconds: float, tokens: int, *, turns: int, speculating: bool) -> bool:
        """Notes that a turn sampled tokens in this time, while so many turns held a share.

        Returns whether a window is complete, so that `decide` must be called.
        """
        window, now = self._window, self._clock.now()
        if now < window.since:
            return False
        window.seconds += seconds
        window.tokens += tokens
        window.turns += turns * tokens
        window.speculated |= speculating
        return window.tokens >= WINDOW_TOKENS and now - window.since >= WINDOW_S

    def decide(self, *, waiting: bool) -> None:
        """Sets the most turns and the width by the complete window, and begins another one.

        `waiting` says that a turn waits because no more may run.
        """
        window, before = self._window, (self.turns_max, self.width)
        token_s = window.seconds / window.tokens
        turns = max(1, round(window.turns / window.tokens))
        if token_s > self._target_s:
            if not (window.speculated and self._narrow()):
                self._lower(turns, token_s)
        else:
            self._succeed(turns, speculated=window.speculated)
            if token_s <= CALM * self._target_s:
                self._widen()
                self._raise(turns, token_s, waiting=waiting)
        changed = before != (self.turns_max, self.width)
        self._window = _Window(self._clock.now() + (SETTLE_S if changed else 0.0))

    def _succeed(self, turns: int, *, speculated: bool) -> None:
        self._fits = max(self._fits, turns)
        if self._too_slow is not None and turns >= self._too_slow:
            self._too_slow = None
            self._more.succeed()
        if speculated and self._too_wide is not None and self.width >= self._too_wide:
            self._too_wide = None
            self._wider.succeed()

    def _lower(self, turns: int, token_s: float) -> None:
        again = self._too_slow is not None and turns >= self._too_slow
        if not again:
            self._too_slow = turns
        if not again or self._more.due:  # else the turns are those that ran before
            self._more.fail(again=again)
        if self._fits >= turns:
            self._fits = 0  # it fits no longer
        fitting = max(self._fits, int(turns * self._target_s / token_s))
        self.turns_max = min(self.turns_max, max(1, min(turns - 1, fitting)))

    def _raise(self, turns: int, token_s: float, *, waiting: bool) -> None:
        fitting = int(turns * self._target_s / max(token_s, self._target_s / 2))
        if waiting:
            fitting = max(fitting, turns + 1)
        if self._too_slow is not None:
            fitting = min(fitting, self._too_slow if self._more.due else self._too_slow - 1)
        self.turns_max = max(self.turns_max, fitting)

    def _narrow(self) -> bool:
        """Makes speculation narrower. Returns False if there was none to make narrower."""
        if not self.width:
            return False
        again = self._too_wide is not None and self.width >= self._too_wide
        self._too_wide = self.width
        self._wider.fail(again=again)
        narrower = self.width / NARROWER
        self.width = narrower if narrower >= WIDTH_MIN else 0.0
        return True

    def _widen(self) -> None:
        wider = min(1.0, max(WIDTH_MIN, self.width * NARROWER))
        if self._too_wide is None or wider < self._too_wide or self._wider.due:
            self.width = wider
