"""Keeps one engine running: starts it, notices its death, starts it again with backoff.

Only the first start can fail for good. After it the configuration is known to work, so whatever a
restart fails on (memory that the dead engine still holds, a full disk) may pass: it is tried again.

Owns: the engine and its state. Everyone else asks for the engine each time they need it.
Never: turns; who used a dead engine gets EngineDiedError from it and ends by itself.
Concurrency: one event loop; `run` is one long-lived coroutine.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import NoReturn

from precall_service.domain.clock import Clock
from precall_service.domain.errors import Reason, ServiceError
from precall_service.engine.base import (
    Engine,
    EngineFactory,
    EngineInfo,
    EngineStartError,
    EngineState,
    Progress,
)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartPolicy:
    """How long to wait before an engine that died is started again.

    The first restart comes at once: most deaths are single events. Each failed or short-lived
    one doubles the wait; an engine that lived for `stable_s` starts the count anew.
    """

    backoff_first_s: float = 1.0
    backoff_max_s: float = 60.0
    stable_s: float = 300.0
    retry_hint_s: float = 5.0


class EngineSupervisor:
    """The engine, whether it is there or not."""

    def __init__(
        self, factory: EngineFactory, clock: Clock, policy: RestartPolicy | None = None
    ) -> None:
        self._factory = factory
        self._clock = clock
        self._policy = policy or RestartPolicy()
        self._engine: Engine | None = None
        self._info: EngineInfo | None = None
        self._state = EngineState.STARTING
        self._changed = asyncio.Event()

    @property
    def state(self) -> EngineState:
        """Where the engine stands."""
        return self._state

    @property
    def info(self) -> EngineInfo | None:
        """What the engine is; None before its first start."""
        return self._info

    @property
    def running(self) -> Engine | None:
        """The engine, while it serves."""
        return self._engine if self._state is EngineState.READY else None

    async def states(self) -> AsyncGenerator[EngineState]:
        """The present state, then each one that differs from the last one yielded.

        A reader that is slow misses states in between, never the latest.
        """
        state = None
        while True:
            changed = self._changed
            if self._state is not state:
                state = self._state
                yield state
            else:
                await changed.wait()

    def engine(self) -> Engine:
        """The running engine.

        Raises:
            ServiceError: ENGINE_UNAVAILABLE, while there is none.
        """
        engine = self.running
        if engine is None:
            raise self.unavailable()
        return engine

    def died(self) -> ServiceError:
        """The error for a turn whose generation went down with the engine."""
        hint = self._policy.retry_hint_s
        return ServiceError(
            Reason.ENGINE_UNAVAILABLE,
            "the engine died while the turn ran and is being started again: send the turn again in "
            f"{hint:g} s, with a new turn id",
            retry_after_s=hint,
        )

    def unavailable(self) -> ServiceError:
        """The error for everything that needs the engine while it is not there."""
        if self._state is EngineState.FAILED:
            return ServiceError(
                Reason.ENGINE_UNAVAILABLE,
                "the engine cannot start, and the server ends: its log says why",
            )
        hint = self._policy.retry_hint_s
        doing = "is starting" if self._info is None else "died and is being started again"
        return ServiceError(
            Reason.ENGINE_UNAVAILABLE,
            f"the engine {doing}; the conversation is kept: try again in {hint:g} s",
            retry_after_s=hint,
        )

    async def start(self, on_progress: Progress) -> EngineInfo:
        """The first start; returns what the engine is.

        Raises:
            EngineStartError: it cannot start as configured.
            Exception: it did not start, for whatever reason the factory gave.
        """
        self._become(EngineState.STARTING)
        try:
            engine = await self._factory(on_progress)
        except BaseException:
            self._become(EngineState.FAILED)
            raise
        self._install(engine)
        return engine.info

    async def run(self) -> NoReturn:
        """Watches the started engine, and replaces it whenever it dies.

        On cancel: the engine is left to `close`.
        """
        backoff_s = 0.0
        while True:
            ready_at = self._clock.now()
            await self.engine().wait_dead()
            if self._clock.now() - ready_at >= self._policy.stable_s:
                backoff_s = 0.0
            log.error("the engine died; starting it again in %g s", backoff_s)
            self._become(EngineState.RESTARTING)
            backoff_s = await self._replace(backoff_s)

    async def close(self) -> None:
        """Ends the engine. Idempotent; bounded by the engine's own `close`."""
        engine, self._engine = self._engine, None
        if engine is not None:
            await engine.close()

    async def _replace(self, backoff_s: float) -> float:
        """Starts engines until one runs; returns the next death's backoff."""
        await self._clear_away()
        while True:
            await self._wait(backoff_s)
            backoff_s = min(
                max(2 * backoff_s, self._policy.backoff_first_s), self._policy.backoff_max_s
            )
            try:
                engine = await self._factory(_log_progress)
            except EngineStartError as error:
                log.error("%s; next try in %g s", error, backoff_s)
            except Exception:  # whatever a start can raise: only a later try can tell
                log.exception("the engine did not start; next try in %g s", backoff_s)
            else:
                self._install(engine)
                log.warning("the engine serves again")
                return backoff_s

    async def _clear_away(self) -> None:
        """Ends what is left of a dead engine; a failure of that must not end the restarts too."""
        try:
            await self.close()
        except Exception:  # whatever a dead engine can still raise: the next start will tell
            log.exception("the dead engine could not be cleared away")

    async def _wait(self, seconds: float) -> None:
        over = asyncio.Event()
        timer = self._clock.call_later(seconds, over.set)
        try:
            await over.wait()
        finally:
            timer.cancel()

    def _install(self, engine: Engine) -> None:
        self._engine = engine
        self._info = engine.info
        self._become(EngineState.READY)

    def _become(self, state: EngineState) -> None:
        self._state = state
        self._changed.set()
        self._changed = asyncio.Event()


def _log_progress(stage: str, fraction: float | None) -> None:
    log.info("engine: %s%s", stage, "" if fraction is None else f" {fraction:.0%}")
