"""The cache stage of a call's path: answers calls from the cache, or by one run for equal calls.

    look up ─▶ a usable entry? ─▶ an equal run in flight? ─▶ run, and store the result

Calls are equal if they have the same cache key. Equal calls at the same time share one run of a
handler, across turns and conversations. A call does not share a run that started before a write
which the call must see.

Owns: the runs that calls share.
Concurrency: one event loop. A task of the cache awaits each run, so the call that started it can be
    cancelled while others wait for it. When no call is left, the run is discarded.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field

from precall_service.agent.early_run import EarlyRun
from precall_service.cache.base import Entry, Lookup, Origin, Value
from precall_service.cache.cache import ToolCache
from precall_service.cache.query import CacheQuery
from precall_service.domain.clock import Clock
from precall_service.domain.endings import InvocationEnding
from precall_service.domain.errors import Reason, ServiceError
from precall_service.domain.events import InvocationCancelReason, ResultSource
from precall_service.tools.dispatch import Dispatcher
from precall_service.tools.run import ProgressListener, Run
from precall_service.tools.toolset import RegisteredTool

_OF_ITS_PROCESS = {Reason.TOOL_UNAVAILABLE, Reason.CANCELLED}
"""Endings that concern the process or turn in which a run was started, but not equal calls."""

Launch = Callable[[Lookup | None], Run | EarlyRun]
"""Starts the run for a call, after this look-up; or returns the early run that the call claims."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallAnswer:
    """The ending of a call, and where its result came from."""

    ending: InvocationEnding
    source: ResultSource = ResultSource.UNSPECIFIED
    entry_version: int = 0
    age_s: float | None = None

    prediction_id: str = ""
    time_saved_s: float | None = None
    run_time_s: float | None = None
    """How long the handler took; None if it did not run for this call."""

    @staticmethod
    def of_run(run: Run, ending: InvocationEnding, *, joined: bool = False) -> CallAnswer:
        """Returns the answer for a call whose handler ran, for this call or an equal one."""
        if ending.error is not None:
            return CallAnswer(ending=ending)
        if joined:
            return CallAnswer(ending=ending, source=ResultSource.JOINED)
        return CallAnswer(ending=ending, source=ResultSource.COMMITTED, run_time_s=run.took_s)

    @staticmethod
    def of_early_run(ending: InvocationEnding, early: EarlyRun) -> CallAnswer:
        """Returns the answer for a call whose handler was started for a prediction of it."""
        return CallAnswer(
            ending=ending,
            source=ResultSource.UNSPECIFIED if ending.error else ResultSource.SPECULATIVE,
            prediction_id=early.prediction.prediction_id,
            time_saved_s=None if ending.error else early.saved_s,
        )


class _Flight:
    """A run that equal calls share, until its result is stored."""

    def __init__(self, run: Run, snapshot: int, early: EarlyRun | None = None) -> None:
        self.run = run
        self.snapshot = snapshot
        self.early = early
        """What the run was before the call that started this flight claimed it."""
        self.landed = asyncio.Event()
        """Set once the run has ended and its result, if it has one, is stored."""
        self._calls: list[ProgressListener] = []
        """The waiting calls: for each of them, the function that reports progress to its client."""
        run.on_progress(self._tell)

    async def share(self, on_progress: ProgressListener, *, starter: bool) -> InvocationEnding:
        """Awaits the run for one of the calls that share it, and returns its ending.

        On cancel: the run is discarded if no other call waits for it. It is also discarded if the
        call that started it is cancelled before the invocation was sent: the client could not
        handle an invocation for a turn that has ended. Another call then starts a run of its own.
        """
        self._calls.append(on_progress)
        try:
            await self.landed.wait()
        except asyncio.CancelledError:
            if len(self._calls) == 1 or (starter and not self.run.sent):
                await _discard(self.run)
            raise
        finally:
            self._calls.remove(on_progress)
        return await self.run.ending()

    def _tell(self, message: str, fraction: float | None) -> None:
        for on_progress in tuple(self._calls):
            on_progress(message, fraction)


@dataclass(slots=True)
class _Slot:
    """The calls of one key that are in progress."""

    calls: int = 0
    flight: _Flight | None = field(default=None)
    """The latest flight."""


class CachedCalls:
    """Answers the calls of cacheable tools, of all turns of the process."""

    def __init__(self, cache: ToolCache, dispatcher: Dispatcher, clock: Clock) -> None:
        self._cache = cache
        self._dispatcher = dispatcher
        self._clock = clock
        self._slots: dict[tuple[str, bytes], _Slot] = {}

    async def answer(
        self,
        tool: RegisteredTool,
        query: CacheQuery,
        launch: Launch,
        on_progress: ProgressListener,
    ) -> CallAnswer:
        """Returns the answer to a call of this tool. `launch` is called if it needs a run.

        On cancel: a run that no other call waits for is discarded.
        """
        tenant = query.key.tenant
        with self._slot(query) as slot:
            too_old = slot.flight if slot.flight and slot.flight.landed.is_set() else None
            missed = False
            while True:
                lookup = await self._cache.find(query)
                entry = None if lookup is None else lookup.entry
                if entry is not None and await self._fits(tool, entry.value):
                    self._cache.count_hit(query.key, entry)
                    return _from_cache(entry)
                if not missed:
                    self._cache.count_miss(tenant, stale=lookup is not None and lookup.stale)
                    missed = True
                if lookup is None:  # without versions, nothing may be shared or stored
                    run = launch(None)
                    assert isinstance(run, Run), "no call claims an early run without versions"
                    run.on_progress(on_progress)
                    return CallAnswer.of_run(run, await _ending(run))
                flight = slot.flight
                joined = (
                    flight is not None
                    and flight is not too_old
                    and lookup.changed_at <= flight.snapshot
                )
                if flight is None or not joined:
                    flight = self._start(slot, query, launch(lookup), lookup.snapshot)
                ending = await flight.share(on_progress, starter=not joined)
                if not joined and flight.early is not None:
                    return CallAnswer.of_early_run(ending, flight.early)
                if joined and not await self._answers(tool, flight.run, ending):
                    too_old = flight
                    continue
                if joined:
                    self._cache.count_joined(tenant)
                return CallAnswer.of_run(flight.run, ending, joined=joined)

    @contextmanager
    def _slot(self, query: CacheQuery) -> Generator[_Slot]:
        key = query.key.tenant, query.key.digest
        slot = self._slots.setdefault(key, _Slot())
        slot.calls += 1
        try:
            yield slot
        finally:
            slot.calls -= 1
            if not slot.calls:
                del self._slots[key]

    async def _answers(self, tool: RegisteredTool, run: Run, ending: InvocationEnding) -> bool:
        """Returns whether the run that another call started answers a call of this tool.

        An ending that is about the process or the turn of the other call does not.
        """
        if ending.error is not None:
            return run.sent and ending.error.reason not in _OF_ITS_PROCESS
        return await self._fits(tool, ending)

    async def _fits(self, tool: RegisteredTool, found: Value | InvocationEnding) -> bool:
        """Returns whether a result is valid for this tool: clients may store anything."""
        try:
            await self._dispatcher.check_result(tool, found.result_json, found.content)
        except ServiceError:
            return False
        return True

    def in_flight(self, query: CacheQuery) -> bool:
        """Returns whether an equal call is in progress."""
        return (query.key.tenant, query.key.digest) in self._slots

    def _start(
        self, slot: _Slot, query: CacheQuery, launched: Run | EarlyRun, snapshot: int
    ) -> _Flight:
        if isinstance(launched, EarlyRun):
            flight = _Flight(launched.run, launched.snapshot, launched)
        else:
            flight = _Flight(launched, snapshot)
        slot.flight = flight
        self._cache.spawn(self._fly(query, flight))
        return flight

    async def _fly(self, query: CacheQuery, flight: _Flight) -> None:
        run = flight.run
        try:
            ending = await run.ending()
            if ending.error is None:
                await self._cache.keep(
                    query,
                    flight.snapshot,
                    result_json=ending.result_json,
                    content=ending.content,
                    execution_id=run.execution_id,
                    origin=Origin.SPECULATIVE if flight.early else Origin.COMMITTED,
                    cost_s=run.took_s,
                )
        finally:
            flight.landed.set()


async def _ending(run: Run) -> InvocationEnding:
    try:
        return await run.ending()
    except asyncio.CancelledError:
        await _discard(run)
        raise


async def _discard(run: Run) -> None:
    run.discard(InvocationCancelReason.TURN_ENDED)
    await run.closed()


def _from_cache(entry: Entry) -> CallAnswer:
    return CallAnswer(
        ending=InvocationEnding.of_result(entry.value.result_json, entry.value.content),
        source=ResultSource.CACHE,
        entry_version=entry.entry_version,
        age_s=entry.age_s,
    )
