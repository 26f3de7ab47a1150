"""Tells waiting turns their queue positions: now and then, and a few at a time.

Every change of the queue moves nearly all turns behind it. Telling each of them at once would cost
time in proportion to the queue with every turn that ends. So changes are collected: a pass tells
every waiting turn its position, the first in the queue first. It does a bounded part at a time,
with a pause after each, and the next pass begins no sooner than `every_s` after the end of the last
one, and only if something has changed. After the last change there is one more pass, so that the
last word is right.

Owns: the time of the next part, and what is left of the pass.
Concurrency: one event loop; synchronous. A part takes well under a millisecond.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Final

from precall_service.admission.share import Share
from precall_service.domain.clock import Clock, Timer

PART: Final = 32
"""The most turns that are told, and so woken, at once."""
PAUSE_S: Final = 0.02
"""The pause after a part. So no more than 1,600 turns are told in a second, however many wait."""


class Positions:
    """The queue positions of the turns that `order` yields."""

    def __init__(
        self, clock: Clock, order: Callable[[], Iterator[Share]], *, every_s: float
    ) -> None:
        self._clock = clock
        self._order = order
        self._every_s = every_s
        self._timer: Timer | None = None
        self._rest: Iterator[Share] | None = None
        self._position = 0
        self._changed = False

    def change(self) -> None:
        """Notes that the queue has changed. The first turns may be told at once."""
        self._changed = True
        if self._timer is None:
            self._go_on()

    def stop(self) -> None:
        """Forgets all, as no turn waits."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._rest = None
        self._changed = False

    def _go_on(self) -> None:
        """Tells the next part; begins a pass if none is under way and something has changed."""
        self._timer = None
        if self._rest is None:
            if not self._changed:
                return
            self._rest, self._position, self._changed = self._order(), 0, False
        part = list(itertools.islice(self._rest, PART))
        for share in part:
            if share.queued:
                share.move_to(self._position)
                self._position += 1
        if len(part) < PART:
            self._rest = None
        pause_s = self._every_s if self._rest is None else PAUSE_S
        self._timer = self._clock.call_later(pause_s, self._go_on)
