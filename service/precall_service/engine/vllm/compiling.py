"""Lets one generation at a time have the engine compile grammars that cost it much.

The engine compiles the grammars of a step's tools again, in threads of its own, and a tool turn
waits for one of them. Several sets of tools that each take seconds would hold up the tool turns of
all tenants. Here they go one after the other, and tenants take turns. `utilities` leaves the engine
another thread for all other grammars.

Nothing interrupts xgrammar: the engine goes on compiling for a generation that was cancelled. So
such a turn lasts on for as long as that may take.

Concurrency: one event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Final

from cachetools import LRUCache

from precall_service.engine.vllm.plans import StepPlan
from precall_service.fair_turns import FairTurns

COSTLY_S: Final = 0.25
"""From this processor time on, the grammars of a step take their turn. 128 small tools take as
long."""
HOLD_MAX_S: Final = 30.0
"""After this time without an output, the next one has its turn: the generation may wait for more
than its grammars."""
COMPILED_MAX_S: Final = 32.0
"""The most processor time of all sets that the engine is taken to have compiled. vLLM's cache keeps
512 MiB of them, and they have some 10 MiB for each second."""


class Compiling:
    """Whose costly grammars the engine compiles now. Those of a known plan take no turn."""

    def __init__(self) -> None:
        self._turns = FairTurns()
        self._compiled: LRUCache[int, StepPlan] = LRUCache(COMPILED_MAX_S, _compile_s)
        """By the id of the object, which lives as long as it is here."""

    @asynccontextmanager
    async def turn(self, plan: StepPlan, tenant: str) -> AsyncGenerator[Callable[[], None]]:
        """Waits for the plan's turn, and yields what ends it: to be called at the first output.

        The end of the block ends it, too. If there was no output by then, the turn is passed on
        after the time that the engine may need to compile what it has begun with.
        """
        if plan.compile_s < COSTLY_S or id(plan) in self._compiled:
            yield _nothing
            return
        await self._turns.begin(tenant)
        turn = _Turn(self._turns.end)

        def compiled() -> None:
            self._compiled[id(plan)] = plan
            turn.end()

        try:
            yield compiled
        finally:
            turn.end_after(plan.compile_s)


class _Turn:
    """A turn that has begun. It ends by itself after HOLD_MAX_S."""

    def __init__(self, on_end: Callable[[], None]) -> None:
        self._on_end: Callable[[], None] | None = on_end
        self._timer = self._ends_in(HOLD_MAX_S)

    def end(self) -> None:
        """Ends the turn. Idempotent."""
        self._timer.cancel()
        on_end, self._on_end = self._on_end, None
        if on_end is not None:
            on_end()

    def end_after(self, seconds: float) -> None:
        """Ends the turn after this time, unless it has ended."""
        self._timer.cancel()
        if self._on_end is not None:
            self._timer = self._ends_in(seconds)

    def _ends_in(self, seconds: float) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(seconds, self.end)


def _compile_s(plan: StepPlan) -> float:
    return plan.compile_s


def _nothing() -> None:
    """Ends no turn."""
