"""Guards a remote store, so that it never fails a turn, slows it much, or serves stale results.

The guard is a circuit breaker. While the store is down, every operation raises
StoreUnavailableError at once, so calls run as if there were no cache. The guard keeps the writes
that the store missed in that time, and makes up for them before it lets look-ups through again. If
there are too many of them, it makes everything stale that was stored before.

The guard holds back only this server's look-ups. Another server may still reach the store. It
learns of this server's writes when they are made up for, or when an announced write is overdue.

Owns: the time limit of operations, the breaker, the missed writes, and the recovery.
Concurrency: one event loop. The recovery and the writes are tasks of the guard, which end with it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence
from contextlib import aclosing, suppress
from functools import partial
from types import TracebackType
from typing import Final, Self, TypeVar

from precall_service.cache.base import (
    CacheKey,
    Change,
    Changed,
    Conditions,
    Dependency,
    LoggedChange,
    Lookup,
    Mismatched,
    NotYet,
    Size,
    Stored,
    StoreUnavailableError,
    Value,
    Versions,
)
from precall_service.cache.deadline import within
from precall_service.cache.guard_policy import GuardPolicy
from precall_service.cache.records import PAGE_BYTES_MAX
from precall_service.cache.remote import RemoteStore, StoreLostError
from precall_service.domain.clock import Clock
from precall_service.incidents import report_defect

log = logging.getLogger(__name__)

T = TypeVar("T")

MISSED_MAX: Final = 256
PUT_BYTES_MAX: Final = 2 << 20
"""The most bytes of values that are being stored, unless a single value is larger."""
BYTES_PER_S: Final = 20e6
"""A large operation may take longer by the time that its bytes need at this rate."""


class GuardedStore:
    """See `CacheStore`. The guarded store is available inside the `async with` block."""

    def __init__(self, store: RemoteStore, clock: Clock, policy: GuardPolicy | None = None) -> None:
        self._store = store
        self._clock = clock
        self._policy = policy or GuardPolicy()
        self._available = True
        self._writable = True
        self._failed_in_a_row = 0
        self._failures = 0
        self._put_bytes = 0
        """The bytes of the values that are being stored."""
        self._missed: list[Callable[[], Awaitable[object]]] = []
        self._missed_too_many = False
        self._backoff_s = 0.0
        self._back_at = clock.now()
        self._recovery: asyncio.Task[None] | None = None
        self._pausing: asyncio.Future[bool] | None = None
        self._tried = asyncio.Event()
        """Set once an attempt to recover has let writes through, or has failed."""
        self._writes: set[asyncio.Task[object]] = set()
        self._under_way: set[asyncio.Task[object]] = set()
        """Those of the writes that have been passed on to the store."""
        self._closed = False

    async def __aenter__(self) -> Self:
        """Tries to connect once. If the store is down, logs a warning and keeps trying."""
        try:
            await self._store.connect()
        except StoreUnavailableError as error:
            self._failures += 1
            self._go_down(error)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    @property
    def available(self) -> bool:
        """Whether all operations are passed on to the store."""
        return self._available

    @property
    def failures(self) -> int:
        """The number of operations that failed or were refused."""
        return self._failures

    def concerns(self, tenant: str) -> bool:
        """See `CacheStore`."""
        return self._store.concerns(tenant)

    async def look_up(self, key: CacheKey, nodes: Sequence[str]) -> Lookup:
        """See `CacheStore`."""
        return await self._try(self._policy.timeout_s, partial(self._store.look_up, key, nodes))

    async def put(
        self,
        key: CacheKey,
        value: Value,
        nodes: Sequence[str],
        dependencies: Sequence[Dependency],
        conditions: Conditions,
    ) -> Stored | Changed | Mismatched | NotYet:
        """See `CacheStore`. A put that fails is not repeated: the value is just not stored.

        One tenant may put many large values, which must not make the store unavailable to others.
        So at most PUT_BYTES_MAX are sent at the same time, and a late put does not count towards
        `failures_max`.
        """
        size = len(value.result_json) + len(value.content)
        if self._put_bytes and self._put_bytes + size > PUT_BYTES_MAX:
            self._failures += 1
            raise StoreUnavailableError("other large values are being stored")
        self._put_bytes += size
        try:
            return await self._try(
                self._policy.timeout_s + self._put_bytes / BYTES_PER_S,
                partial(self._store.put, key, value, nodes, dependencies, conditions),
                counts=False,
            )
        finally:
            self._put_bytes -= size

    async def versions(self, tenant: str, dependencies: Sequence[Dependency]) -> Versions:
        """See `CacheStore`."""
        return await self._try(
            self._policy.timeout_s, partial(self._store.versions, tenant, dependencies)
        )

    async def advance(
        self, tenant: str, nodes: Sequence[str], change: Change | None, *, settles: str = ""
    ) -> int:
        """See `CacheStore`. On cancel, or if it fails: it is made up for."""
        return await self._record(
            partial(self._store.advance, tenant, nodes, change, settles=settles)
        )

    async def announce(
        self, tenant: str, write_id: str, nodes: Sequence[str], change: Change, within_s: float
    ) -> None:
        """See `CacheStore`. On cancel, or if it fails: it is made up for."""
        await self._record(partial(self._store.announce, tenant, write_id, nodes, change, within_s))

    async def drop(self, key: CacheKey, nodes: Sequence[str] = ()) -> int:
        """See `CacheStore`. On cancel, or if it fails: it is made up for."""
        return await self._record(partial(self._store.drop, key, nodes))

    async def watch(self, tenant: str, after: int | None) -> AsyncGenerator[LoggedChange]:
        """See `CacheStore`."""
        try:
            self._check(self._available)
            async with aclosing(self._store.watch(tenant, after)) as changes:
                async for change in changes:
                    yield change
        except StoreUnavailableError:
            self._failures += 1
            raise

    async def size(self, tenant: str) -> Size:
        """See `CacheStore`."""
        return await self._try(self._policy.timeout_s, partial(self._store.size, tenant))

    async def remember(self, tenant: str, record: bytes) -> None:
        """See `CacheStore`. A record that cannot be added in time is lost."""
        await self._try(
            self._policy.timeout_s, partial(self._store.remember, tenant, record), counts=False
        )

    async def recall(self, tenant: str, after: int) -> list[tuple[int, bytes]]:
        """See `CacheStore`."""
        return await self._try(
            self._policy.timeout_s + PAGE_BYTES_MAX / BYTES_PER_S,
            partial(self._store.recall, tenant, after),
            counts=False,
        )

    async def close(self) -> None:
        """See `CacheStore`. Idempotent. Writes under way get a bounded time to end."""
        if self._closed:
            return
        self._closed = True
        self._available = self._writable = False
        if self._recovery is not None:
            self._recovery.cancel()
            await asyncio.wait([self._recovery])
        if self._writes:
            await asyncio.wait(self._writes, timeout=self._policy.close_s)
        missed = len(self._missed) + len(self._writes)
        for task in self._writes:
            task.cancel()
        if missed or self._missed_too_many:
            log.warning(
                "the cache store at %s has missed %s changes, so its entries may be stale",
                self._store.name,
                f"more than {MISSED_MAX}" if self._missed_too_many else missed,
            )
        try:
            async with asyncio.timeout(self._policy.close_s):
                await self._store.close()
        except TimeoutError:
            log.warning("the cache store at %s could not be closed in time", self._store.name)

    def _check(self, open_to_it: bool) -> None:
        if not open_to_it:
            raise StoreUnavailableError(f"the cache store at {self._store.name} is down")

    async def _try(
        self, timeout_s: float, operation: Callable[[], Awaitable[T]], *, counts: bool = True
    ) -> T:
        """Passes an operation on to the store, within a time limit.

        `counts` says whether a timeout counts towards `failures_max`.
        """
        try:
            self._check(self._available)
            outcome = await within(self._clock, timeout_s, operation)
        except StoreUnavailableError as error:
            self._failures += 1
            self._failed_in_a_row += counts
            lost = isinstance(error, StoreLostError)
            if lost or self._failed_in_a_row >= self._policy.failures_max:
                self._go_down(error)
            raise
        self._failed_in_a_row = 0
        return outcome

    async def _record(self, write: Callable[[], Coroutine[object, object, T]]) -> T:
        """Passes a write on, in a task of the guard, so that it survives a cancel of its caller."""
        task = asyncio.create_task(self._make(write))
        self._writes.add(task)
        task.add_done_callback(self._written)
        return await asyncio.shield(task)

    def _written(self, task: asyncio.Task[object]) -> None:
        self._writes.discard(task)
        self._under_way.discard(task)
        if not task.cancelled():
            task.exception()  # Marks it as retrieved: the caller may have been cancelled.

    async def _make(self, write: Callable[[], Awaitable[T]]) -> T:
        try:
            if not self._writable:
                await self._try_now()
            self._check(self._writable)
            task = asyncio.current_task()
            assert task is not None
            self._under_way.add(task)
            outcome = await within(self._clock, self._policy.timeout_s, write)
        except StoreUnavailableError as error:
            self._miss(write)
            self._failures += 1
            self._go_down(error)
            raise
        except BaseException:  # the write may not have been made
            self._miss(write)
            raise
        self._failed_in_a_row = 0
        return outcome

    def _miss(self, write: Callable[[], Awaitable[object]]) -> None:
        if len(self._missed) >= MISSED_MAX:
            self._missed.clear()
            self._missed_too_many = True
        if not self._missed_too_many:
            self._missed.append(write)

    async def _try_now(self) -> None:
        """Makes the recovery try the store at once; returns after the attempt, or the timeout.

        Another server may already be using the store again, and must not serve what this write
        makes stale. So a write is missed only if the store cannot be reached now.
        """
        if self._pausing is not None and not self._pausing.done():
            self._tried.clear()
            self._pausing.set_result(True)
        with suppress(StoreUnavailableError):
            await within(self._clock, self._policy.timeout_s, self._tried.wait)

    def _go_down(self, error: StoreUnavailableError) -> None:
        """Refuses all operations until the store has recovered."""
        if not self._available or self._closed:
            return
        self._available = self._writable = False
        log.warning(
            "the cache store at %s is down, and tools run without it: %s", self._store.name, error
        )
        self._recovery = asyncio.create_task(self._recover())

    async def _recover(self) -> None:
        """Tries the store until it is back, makes the missed writes, lets operations through."""
        went_down_at = self._clock.now()
        if went_down_at - self._back_at >= self._policy.stable_s:
            self._backoff_s = 0.0
        while True:
            if not await self._pause(self._backoff_s):
                self._backoff_s = min(
                    max(self._backoff_s * 2, self._policy.backoff_first_s),
                    self._policy.backoff_max_s,
                )
            self._writable = False
            self._tried.clear()
            try:
                await self._store.disconnect()
                if self._under_way:  # They have failed, and now add themselves to the missed.
                    await asyncio.wait(set(self._under_way))
                await self._store.connect()
                await self._make_up()
            except StoreUnavailableError:
                continue
            except Exception as defect:  # noqa: BLE001 - otherwise, the store would stay down
                report_defect(log, f"the recovery of the cache store at {self._store.name}", defect)
                continue
            finally:
                self._tried.set()
            break
        self._failed_in_a_row = 0
        self._back_at = self._clock.now()
        self._available = True
        self._recovery = None
        log.info(
            "the cache store at %s is back after %.1f s",
            self._store.name,
            self._back_at - went_down_at,
        )

    async def _make_up(self) -> None:
        """Makes the missed writes. New writes are let through meanwhile, so that it always ends.

        Raises:
            StoreUnavailableError: the store is down again; the writes not made yet are kept.
        """
        self._writable = True
        self._tried.set()
        while self._missed or self._missed_too_many:
            missed, self._missed = self._missed, []
            if self._missed_too_many:
                self._missed_too_many = False
                missed.append(self._store.advance_epoch)
            outcomes = await asyncio.gather(
                *(within(self._clock, self._policy.timeout_s, write) for write in missed),
                return_exceptions=True,
            )
            failed = [
                (write, outcome)
                for write, outcome in zip(missed, outcomes, strict=True)
                if isinstance(outcome, BaseException)
            ]
            if failed:
                self._missed[:0] = [write for write, _ in failed]
                raise failed[0][1]

    async def _pause(self, seconds: float) -> bool:
        """Waits for this time. Returns whether a write has cut the wait short."""
        if seconds <= 0:
            return False
        self._pausing = over = asyncio.get_running_loop().create_future()

        def end() -> None:
            if not over.done():
                over.set_result(False)

        timer = self._clock.call_later(seconds, end)
        try:
            return await over
        finally:
            timer.cancel()
            self._pausing = None
