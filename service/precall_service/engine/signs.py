"""How long ago an engine gave its last sign of life.

An engine with work to do gives signs of it. One without is asked for its load, which it answers
between two steps. So a process that lives and does nothing is told from one that has nothing to do.

Concurrency: one event loop. At most one question is open at a time, in a task of its own.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Self

from precall_service.domain.clock import Clock
from precall_service.engine.base import Engine, EngineDiedError

log = logging.getLogger(__name__)


class SignsOfLife:
    """Watches one engine. An asynchronous context manager, which ends the open question.

    `age_s`: the seconds since the last sign, as far as this process has watched. Time in which it
    did not look, because it was held up itself, is not the engine's.
    """

    def __init__(self, engine: Engine, clock: Clock, *, every_s: float) -> None:
        """`every_s`: how often `look` is to be called."""
        self.age_s = 0.0
        self._engine = engine
        self._clock = clock
        self._every_s = every_s
        self._seen = engine.progress
        self._looked_at = clock.now()
        self._asking: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait([self._asking])

    def look(self) -> float:
        """Returns `age_s`, now. An engine that gave no sign since the last look is asked."""
        passed_s = self._clock.now() - self._looked_at
        self._looked_at += passed_s
        if self._engine.progress != self._seen:
            self._seen, self.age_s = self._engine.progress, 0.0
            return self.age_s
        self.age_s += min(passed_s, 2 * self._every_s)
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask())
        return self.age_s

    async def _ask(self) -> None:
        try:
            await self._engine.load()
        except EngineDiedError:
            pass  # whoever watches for its death knows
        except Exception:
            log.exception("an engine did not answer for its load")
