"""Keeps one engine running: starts it, notices its death, and starts it again with backoff.

Only the first start can fail for good. Once it has succeeded, the configuration is known to work.
The cause of a failed restart (memory that the dead engine still holds, a full disk) may therefore
pass, and the restart is tried again.

Owns: the engine and its state. Other code asks for the engine each time it needs it.
Never: turns. A turn that used a dead engine gets EngineDiedError from it and ends by itself.
Concurrency: one event loop; `run` is one long-lived coroutine.
"""

from __future__ import annotations

import asyncio
import enum
import logging
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Final, NoReturn

from precall_service.domain.clock import Clock
from precall_service.domain.errors import Reason, ServiceError
from precall_service.engine.base import (
    Engine,
    EngineFactory,
    EngineInfo,
    EngineNotReachedError,
    EngineStartError,
    Progress,
)
from precall_service.engine.signs import SignsOfLife

log = logging.getLogger(__name__)

_LOOKS: Final = 10
"""How often an engine is looked at before it counts as silent."""


class EngineState(enum.Enum):
    """The state of the engine."""

    STARTING = 1
    READY = 2
    RESTARTING = 3
    FAILED = 4
    SILENT = 5
    """It runs and gives no sign of life: turns that run wait for it, and none starts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartPolicy:
    """How long to wait before an engine that died is started again.

    The first restart comes at once, since most deaths are single events. Each restart that fails
    or dies soon doubles the wait. An engine that has lived for `stable_s` resets it.

    An engine that gives no sign of life for `hung_notice_s` is SILENT; after `hung_restart_s` it
    hangs, and is killed. The longest that an engine which works is silent is one step.
    """

    backoff_first_s: float = 1.0
    backoff_max_s: float = 60.0
    stable_s: float = 300.0
    retry_hint_s: float = 5.0
    hung_notice_s: float = 30.0
    hung_restart_s: float = 300.0


class EngineSupervisor:
    """The engine through its starts, deaths and restarts."""

    def __init__(
        self,
        factory: EngineFactory,
        clock: Clock,
        policy: RestartPolicy | None = None,
        *,
        name: str = "the engine",
    ) -> None:
        """`name` is what logs call the engine."""
        self._name = name
        self._factory = factory
        self._clock = clock
        self._policy = policy or RestartPolicy()
        self._engine: Engine | None = None
        self._info: EngineInfo | None = None
        self._state = EngineState.STARTING
        self._signs: SignsOfLife | None = None
        self._changed = asyncio.Event()
        self._listeners: list[Callable[[EngineState], None]] = []

    @property
    def state(self) -> EngineState:
        """The state of the engine."""
        return self._state

    @property
    def info(self) -> EngineInfo | None:
        """The engine's identity and capacity; None before its first start."""
        return self._info

    @property
    def running(self) -> Engine | None:
        """The engine while it is READY or SILENT, otherwise None."""
        return self._engine if self._state in {EngineState.READY, EngineState.SILENT} else None

    @property
    def progress_age_s(self) -> float:
        """How many seconds ago the running engine gave its last sign of life; 0 if none runs.

        It is noticed with a delay of up to a tenth of `hung_notice_s`.
        """
        return 0.0 if self.running is None or self._signs is None else self._signs.age_s

    def on_state(self, listener: Callable[[EngineState], None]) -> None:
        """Calls the listener with the present state, and again in the moment of each change."""
        self._listeners.append(listener)
        listener(self._state)

    async def states(self) -> AsyncGenerator[EngineState]:
        """The present state, then each state that differs from the last one yielded.

        A slow reader misses states in between, but never the latest one.
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
            ServiceError: ENGINE_UNAVAILABLE, no engine is READY or SILENT.
        """
        engine = self.running
        if engine is None:
            raise self.unavailable()
        return engine

    def report_death(self, engine: Engine) -> None:
        """Takes an engine out of service that has raised EngineDiedError; `run` replaces it.

        The engine is replaced even if its process still runs: an engine that raises
        EngineDiedError serves no turn. Reports about an engine that was replaced already are
        ignored.
        """
        if engine is self.running:
            self._become(EngineState.RESTARTING)

    def died(self) -> ServiceError:
        """The error for a turn whose generation died with the engine."""
        hint = self._policy.retry_hint_s
        return ServiceError(
            Reason.ENGINE_UNAVAILABLE,
            "the engine died while the turn ran and is being started again: send the turn again in "
            f"{hint:g} s, with a new turn id",
            retry_after_s=hint,
        )

    def unavailable(self) -> ServiceError:
        """The error for a caller that needs the engine while none is READY."""
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
        """Starts the first engine and returns its identity and capacity.

        Raises:
            EngineStartError: the engine cannot start as configured.
            Exception: the engine did not start; the factory raised this.
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
        """Watches the started engine and replaces it each time it dies.

        On cancel: the engine is left running, for `close` to end.
        """
        backoff_s, ready_at = 0.0, self._clock.now()
        while True:
            how = await self._death()
            if self._clock.now() - ready_at >= self._policy.stable_s:
                backoff_s = 0.0
            log.error("%s died (%s); starting it again in %g s", self._name, how, backoff_s)
            backoff_s = await self._replace(backoff_s)
            ready_at = self._clock.now()

    async def keep(self) -> None:
        """As `start` and `run`, for an engine that the service can do without.

        A first start that fails is tried again. Returns only if the engine cannot start as
        configured, which is logged.

        On cancel: the engine is left running, for `close` to end.
        """
        try:
            await self.start(_log_progress)
        except EngineNotReachedError as error:
            log.warning("%s: %s; trying again", self._name, error)
            await self._replace(self._policy.backoff_first_s)
        except EngineStartError as error:
            log.error("%s is not used: %s", self._name, error)
            return
        except Exception:  # a start can raise anything, and the cause may pass
            log.exception("%s did not start; trying again", self._name)
            await self._replace(self._policy.backoff_first_s)
        log.info("%s serves", self._name)
        await self.run()

    async def close(self) -> None:
        """Ends the engine. Idempotent; bounded by the engine's own `close`."""
        engine, self._engine = self._engine, None
        if engine is not None:
            await engine.close()

    async def _death(self) -> str:
        """Returns how the engine ended once it has, in state RESTARTING."""
        engine = self._engine
        assert engine is not None, "`start` has installed it, and only `run` replaces it"
        dead = asyncio.ensure_future(engine.wait_dead())
        reported = asyncio.ensure_future(self._until_reported(engine))
        hung = asyncio.ensure_future(self._until_hung(engine))
        try:
            await asyncio.wait((dead, reported, hung), return_when=asyncio.FIRST_COMPLETED)
            self.report_death(engine)
            if not hung.done() or dead.done():
                return await self._cause_of_death(engine)
            await self._kill(engine)
            return f"it was killed after {hung.result():.0f} s without a sign of life"
        finally:
            for each in (dead, reported, hung):
                each.cancel()
            self._signs = None

    async def _until_reported(self, engine: Engine) -> None:
        while self.running is engine:
            await self._changed.wait()

    async def _until_hung(self, engine: Engine) -> float:
        """Returns how long an engine was silent that hangs; it is SILENT before that."""
        notice_s = self._policy.hung_notice_s
        every_s = notice_s / _LOOKS
        async with SignsOfLife(engine, self._clock, every_s=every_s) as signs:
            self._signs = signs
            while (age_s := signs.look()) < self._policy.hung_restart_s:
                if self._state is EngineState.READY and age_s >= notice_s:
                    log.warning(
                        "%s has given no sign of life for %.0f s: no turn starts until it does, "
                        "and after %g s it is started again",
                        *(self._name, age_s, self._policy.hung_restart_s),
                    )
                    self._become(EngineState.SILENT)
                elif self._state is EngineState.SILENT and age_s < notice_s:
                    log.warning("%s gives signs of life again", self._name)
                    self._become(EngineState.READY)
                await self._wait(every_s)
            return age_s

    async def _kill(self, engine: Engine) -> None:
        """Kills an engine that hangs; a failure to do so must not end the restarts."""
        try:
            await engine.kill()
        except Exception:  # whatever an engine that hangs can raise
            log.exception("%s could not be killed", self._name)

    async def _cause_of_death(self, engine: Engine) -> str:
        """How the engine ended; a failure to find out must not end the restarts."""
        try:
            return await engine.cause_of_death()
        except Exception:
            log.exception("how %s died could not be found out", self._name)
            return "the cause is unknown"

    async def _replace(self, backoff_s: float) -> float:
        """Starts engines until one runs; returns the backoff for the next death."""
        await self._clear_away()
        while True:
            await self._wait(backoff_s)
            backoff_s = min(
                max(2 * backoff_s, self._policy.backoff_first_s), self._policy.backoff_max_s
            )
            try:
                engine = await self._factory(_log_progress)
            except EngineStartError as error:
                log.error("%s: %s; next try in %g s", self._name, error, backoff_s)
            except Exception:  # a start can raise anything, and the cause may pass
                log.exception("%s did not start; next try in %g s", self._name, backoff_s)
            else:
                self._install(engine)
                log.warning("%s serves again", self._name)
                return backoff_s

    async def _clear_away(self) -> None:
        """Ends what is left of a dead engine; a failure to do so must not end the restarts."""
        try:
            await self.close()
        except Exception:  # a dead engine can raise anything, and the next start may succeed
            log.exception("what is left of %s could not be cleared away", self._name)

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
        for listener in self._listeners:
            listener(state)
        self._changed.set()
        self._changed = asyncio.Event()


def _log_progress(stage: str, fraction: float | None) -> None:
    log.info("engine: %s%s", stage, "" if fraction is None else f" {fraction:.0%}")
