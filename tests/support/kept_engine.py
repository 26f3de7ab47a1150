"""A supervisor of scripted engines, with time that a test turns by hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

from precall_service.engine.supervisor import EngineSupervisor, RestartPolicy
from tests.support.clock import ManualClock, settle
from tests.support.scripted_engine import ScriptedEngine, ScriptedFactory

POLICY = RestartPolicy(backoff_first_s=1.0, backoff_max_s=8.0, stable_s=300.0, retry_hint_s=5.0)


def engine() -> ScriptedEngine:
    return ScriptedEngine([])


def no_progress(stage: str, fraction: float | None) -> None:
    """Ignores the progress of a start."""


class Starts:
    """Makes an engine at each start, or raises the next failure in the list if it is not None."""

    def __init__(self, *failures: Exception | None) -> None:
        self._failures = list(failures)
        self.count = 0

    def __call__(self) -> ScriptedEngine:
        self.count += 1
        failure = self._failures.pop(0) if self._failures else None
        if failure is not None:
            raise failure
        return engine()


class Kept:
    """A supervisor with its own clock."""

    def __init__(self, make: Callable[[], ScriptedEngine]) -> None:
        self.clock = ManualClock()
        self.factory = ScriptedFactory(make)
        self.supervisor = EngineSupervisor(self.factory, self.clock, POLICY)

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[asyncio.Task[None]]:
        """Starts it and runs it until the block ends."""
        await self.supervisor.start(no_progress)
        watching = asyncio.create_task(self.supervisor.run())
        await settle()
        try:
            yield watching
        finally:
            watching.cancel()
            await asyncio.wait([watching])
            await self.supervisor.close()
            assert self.clock.pending == 0

    async def kill(self) -> None:
        self.factory.started[-1].die()
        await settle()

    async def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)
        await settle()
