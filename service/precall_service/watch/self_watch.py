"""Checks the service's own vitals every second, and logs what is over its limit.

A state that lasts is logged when it begins, every REPEAT_S while it lasts, and when it has not been
seen for CALM_S. A pause of the event loop is logged by itself, at most one every PAUSES_S: the
longest, with the number of the others. So nobody can fill the log.

Owns: what was logged, and when.
Never: changes anything. The limits themselves are kept elsewhere.
Concurrency: one event loop. It waits in real time, as it belongs to no turn.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from precall_service.domain.clock import Clock
from precall_service.domain.errors import Reason
from precall_service.engine.supervisor import EngineState
from precall_service.watch.loop_watch import LoopWatch, Pause
from precall_service.watch.vitals import Vitals

log = logging.getLogger(__name__)

CHECK_S: Final = 1.0
REPEAT_S: Final = 60.0
CALM_S: Final = 10.0
PAUSES_S: Final = 10.0
NEARLY_FULL: Final = 0.8
"""The fraction of a limit from which on it is logged."""
REFUSALS_PER_S: Final = 20.0
"""How many refusals of all tenants are logged. Clients that honour RetryInfo, and whose frames are
wrong now and then, stay far below."""
_MIB: Final = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchLimits:
    """What is logged when it is passed, or nearly.

    `turns_waiting`, `conversations` and `bytes_held` are the service's own limits, of all tenants
    together.
    """

    loop_pause_s: float
    turns_waiting: int
    conversations: int
    bytes_held: int


class SelfWatch:
    """Watches one service."""

    def __init__(self, read: Callable[[], Vitals], limits: WatchLimits, clock: Clock) -> None:
        self.vitals = read
        """Returns the vitals now."""
        self._limits = limits
        self._clock = clock
        self._loop = LoopWatch(limits.loop_pause_s, self.note_pause)
        self._worst: Pause | None = None
        self._pauses = 0
        self._pauses_told_at: float | None = None
        self._lasting: dict[str, _Lasting] = {}
        self._refused: Counter[tuple[str, Reason]] = Counter()
        self._longest_pause_s = 0.0

    @asynccontextmanager
    async def watching(self) -> AsyncGenerator[None]:
        """Watches until the end of the block."""
        async with self._loop:
            checking = asyncio.create_task(self._check_always(), name="self-watch")
            try:
                yield
            finally:
                checking.cancel()
                await asyncio.wait([checking])

    def longest_pause_s(self) -> float:
        """Returns how long the event loop did nothing else at most since the last call."""
        longest_s = max(self._longest_pause_s, self._loop.longest_s())
        self._longest_pause_s = 0.0
        return longest_s

    def note_pause(self, pause: Pause) -> None:
        """Notes a pause of the event loop over the limit. Its task says whose work it was.

        Before the first engine has started, nobody waits for the loop, and vLLM loads its libraries
        on it.
        """
        if self.vitals().engine_state is EngineState.STARTING:
            return
        self._longest_pause_s = max(self._longest_pause_s, pause.seconds)
        self._pauses += 1
        if self._worst is None or pause.seconds > self._worst.seconds:
            self._worst = pause

    def check(self) -> None:
        """Logs what is over its limit now."""
        now = self._clock.now()
        self._tell_pauses(now)
        vitals = self.vitals()
        found = dict(self._states(vitals))
        for name, text in found.items():
            lasting = self._lasting.get(name)
            if lasting is None or now - lasting.told_at >= REPEAT_S:
                log.warning("%s: %s", name, text)
                lasting = self._lasting[name] = _Lasting(told_at=now, seen_at=now)
            lasting.seen_at = now
        over = [name for name, each in self._lasting.items() if now - each.seen_at >= CALM_S]
        for name in over:
            log.info("%s: below the limit again", name)
            del self._lasting[name]

    async def _check_always(self) -> None:
        while True:
            await asyncio.sleep(CHECK_S)
            try:
                self.check()
            except Exception:  # the watch must not end the service, nor end itself
                log.exception("the service could not check itself")

    def _tell_pauses(self, now: float) -> None:
        worst = self._worst
        told_at = self._pauses_told_at
        if worst is None or (told_at is not None and now - told_at < PAUSES_S):
            return
        others = f"; {self._pauses - 1} more since the last line" if self._pauses > 1 else ""
        log.warning("the event loop stood still for %s%s", _described(worst), others)
        self._worst, self._pauses, self._pauses_told_at = None, 0, now

    def _states(self, vitals: Vitals) -> Iterator[tuple[str, str]]:
        """Yields what is over its limit: its name, and the numbers with the tenant."""
        for name, held, most, of in (
            ("turns waiting", vitals.turns_waiting, self._limits.turns_waiting, ""),
            ("conversations", vitals.conversations, self._limits.conversations, ""),
            ("memory of conversations", vitals.bytes_held, self._limits.bytes_held, " MiB"),
        ):
            total = sum(held.values())
            if total < NEARLY_FULL * most:
                continue
            tenant = max(held, key=lambda each: held[each])
            unit = _MIB if of else 1
            yield (
                name,
                (
                    f"{total // unit:,}{of} of {most // unit:,}{of} that all tenants may have "
                    f"together; tenant {tenant} has {held[tenant] // unit:,}{of}, the most"
                ),
            )
        if flood := self._flood(vitals.refusals):
            yield "refusals", flood

    def _flood(self, refusals: Mapping[str, Mapping[Reason, int]]) -> str:
        """Returns how many refusals there were since the last check; empty if they were few."""
        counts = Counter(
            {(tenant, reason): n for tenant, by in refusals.items() for reason, n in by.items()}
        )
        new, self._refused = counts - self._refused, counts
        if new.total() < REFUSALS_PER_S * CHECK_S:
            return ""
        by_tenant = Counter[str]()
        for (tenant, _), count in new.items():
            by_tenant[tenant] += count
        ((most, count),) = by_tenant.most_common(1)
        reasons = Counter({reason: n for (whose, reason), n in new.items() if whose == most})
        shown = ", ".join(f"{n:,} {reason.name}" for reason, n in reasons.most_common())
        return (
            f"{new.total():,} in the last {CHECK_S:g} s; tenant {most} had {count:,} ({shown}),"
            " the most"
        )


@dataclass(slots=True)
class _Lasting:
    """Something that is over its limit: when that was logged last, and seen last."""

    told_at: float
    seen_at: float


def _described(pause: Pause) -> str:
    """Returns how long a pause was, whose, where, and what else explains it."""
    text = f"{1e3 * pause.seconds:,.0f} ms, in {pause.task}"
    if pause.where:
        text += f" at {pause.where}"
    if pause.collecting_s > pause.seconds / 2:
        return f"{text}; {1e3 * pause.collecting_s:,.0f} ms of it were garbage collection"
    if pause.processor_s < pause.seconds / 2:
        return (
            f"{text}; it computed for {1e3 * pause.processor_s:,.0f} ms of that, so the machine may"
            " be too busy, or another thread held the interpreter"
        )
    return text
