"""Admits turns while the engine has a slot and KV for them, and tells the others where they stand.

A turn's share is one slot of the engine and the tokens of KV that the turn is expected to hold.

Owns: the shares of admitted turns, the queue of waiting turns, and the free capacity.
Never: generates, or knows what a turn does.
Concurrency: one event loop; all methods but `queue_position` and `resume` are synchronous.

Order of admission: first the turns that return after they gave up their share, then new turns,
round robin over tenants and in order of arrival within one tenant. The head of that order is never
skipped for a smaller turn behind it, so that a large turn cannot starve.

With a target for the time of a token, fewer turns may be admitted than the engine has slots. Turns
that are admitted keep their shares, and one always runs.
"""

from __future__ import annotations

import asyncio
import enum
import itertools
from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from precall_service.admission.latency import LatencyControl
from precall_service.domain.clock import Clock, Timer
from precall_service.domain.errors import Reason, ServiceError


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """The engine's capacity: sequences at once, and tokens of KV cache, if it is known."""

    slots: int
    kv_tokens: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmissionLimits:
    """How long the queue may grow, and how long a turn keeps its share while its tools run.

    Attributes:
        hold_s: Most tools answer within a second or two (86 to 95 % in published coding traces).
            After this time a held share costs other turns more than the re-prefill costs this one.
        wait_max_s: How long a turn may wait for its first admission.
        token_latency_s: The time that a token may take, on average; None: any time.
    """

    waiting_max: int = 1024
    waiting_per_tenant_max: int = 256
    hold_s: float = 5.0
    wait_max_s: float = 600.0
    retry_after_s: float = 1.0
    token_latency_s: float | None = None


class _State(enum.Enum):
    WAITING = "waiting for its first admission"
    ADMITTED = "holds its share"
    PARKED = "gave its share up while its tools run"
    RETURNING = "waits to get its share back"
    RELEASED = "has ended"


class Share:
    """One turn's share of the engine: awaited, held, given up while tools are slow, returned.

    A context manager: leaving it gives the share back in any state.
    """

    def __init__(self, admission: Admission, tenant: str, tokens: int) -> None:
        self._admission = admission
        self._state = _State.WAITING
        self._hold: Timer | None = None
        self._changed = asyncio.Event()
        self._queue_position: int | None = None
        self._told: int | None = None
        self.tenant = tenant
        self.tokens = tokens

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._admission.release(self)

    @property
    def state(self) -> _State:
        """The state of the share."""
        return self._state

    @property
    def paused(self) -> bool:
        """Whether the turn holds its share while its tools run."""
        return self._hold is not None

    async def queue_position(self) -> int | None:
        """Waits for a queue position that this method has not returned last; None once admitted.

        On cancel: the turn keeps its queue position; leaving the context gives it up.
        """
        while True:
            if self._state is _State.ADMITTED:
                return None
            if self._queue_position is not None and self._queue_position != self._told:
                self._told = self._queue_position
                return self._queue_position
            self._changed.clear()
            await self._changed.wait()

    def grow(self, tokens: int) -> None:
        """Tells that the turn now holds `tokens` of KV; more than expected enlarges its share."""
        self._admission.grow(self, tokens)

    def pause(self) -> None:
        """Tells that the turn waits for tools; it loses its share after the hold time."""
        if self._state is _State.ADMITTED and self._hold is None:
            admission = self._admission
            self._hold = admission.clock.call_later(
                admission.limits.hold_s, lambda: admission.park(self)
            )
            admission.paused()

    async def resume(self) -> None:
        """Returns once the turn may generate again, which is at once within the hold time.

        On cancel: the turn keeps its state; leaving the context gives the share back.
        """
        self.unhold()
        if self._state is _State.PARKED:
            self._admission.enqueue_returning(self)
        while self._state is not _State.ADMITTED:
            self._changed.clear()
            await self._changed.wait()

    def unhold(self) -> None:
        """Stops the countdown to the loss of the share."""
        if self._hold is not None:
            self._hold.cancel()
            self._hold = None

    def become(self, state: _State) -> None:
        """Changes the state and wakes the turn. Only the admission calls this."""
        self._state = state
        self._changed.set()

    def move_to(self, queue_position: int) -> None:
        """Sets the queue position; a new one wakes the turn. Only the admission calls this."""
        if queue_position != self._queue_position:
            self._queue_position = queue_position
            self._changed.set()


class Admission:
    """Decides when a turn may start, and when a turn that lost its share may go on."""

    def __init__(self, clock: Clock, limits: AdmissionLimits) -> None:
        self.clock = clock
        self.limits = limits
        target_s = limits.token_latency_s
        self._latency = None if target_s is None else LatencyControl(clock, target_s)
        self._capacity = Capacity(slots=0, kv_tokens=0)
        self._admitted: set[Share] = set()
        self._tokens_held = 0
        self._returning: deque[Share] = deque()
        self._waiting: OrderedDict[str, deque[Share]] = OrderedDict()
        """Tenants in the order of their next turn: the first is served next, then goes last."""

    @property
    def admitted(self) -> int:
        """Turns that hold a share."""
        return len(self._admitted)

    @property
    def waiting(self) -> int:
        """Turns that wait, returning ones included."""
        return len(self._returning) + sum(map(len, self._waiting.values()))

    @property
    def turns_max(self) -> int:
        """How many turns may hold a share now, if their KV fits. 0: there is no engine."""
        slots = self._capacity.slots
        return slots if self._latency is None else min(slots, self._latency.turns_max)

    @property
    def measures(self) -> bool:
        """Whether the time of tokens counts, so that `observe_tokens` must be called."""
        return self._latency is not None

    @property
    def speculation_width(self) -> float:
        """How much speculation the time of tokens allows, from 0 to 1."""
        return 1.0 if self._latency is None else self._latency.width

    def observe_tokens(self, seconds: float, tokens: int, *, speculating: bool) -> None:
        """Notes how long a turn took to sample tokens, and whether speculation ran beside it.

        The most turns and the width of speculation may change by that.
        """
        latency = self._latency
        if latency is not None and latency.observe(
            seconds, tokens, turns=self.admitted, speculating=speculating
        ):
            latency.decide(waiting=self.waiting > 0 and self.admitted >= self.turns_max)
            self._admit()

    def resize(self, capacity: Capacity) -> None:
        """Sets the engine's capacity. Turns already admitted keep their shares."""
        self._capacity = capacity
        self._admit()

    def suspend(self) -> None:
        """Stops admitting turns until `resize` is called with the next engine's capacity."""
        self._capacity = Capacity(slots=0, kv_tokens=0)

    def enter(self, tenant: str, tokens: int) -> Share:
        """Returns a share with `tokens` of KV for a turn of this tenant, admitted or waiting.

        Raises:
            ServiceError: OVERLOADED, the queue is full.
        """
        queue = self._waiting.get(tenant, ())
        if len(queue) >= self.limits.waiting_per_tenant_max:
            raise self._overloaded(f"tenant {tenant!r} has", len(queue), "per tenant")
        if self.waiting >= self.limits.waiting_max:
            raise self._overloaded("this server has", self.waiting, "for all tenants")
        share = Share(self, tenant, tokens)
        self._waiting.setdefault(tenant, deque()).append(share)
        self._admit()
        return share

    def grow(self, share: Share, tokens: int) -> None:
        """Enlarges a share, as `Share.grow` says."""
        if tokens > share.tokens:
            if share in self._admitted:
                self._tokens_held += tokens - share.tokens
            share.tokens = tokens

    def paused(self) -> None:
        """Notes that a turn waits for its tools. If no other runs, the next one may start."""
        if self._latency is not None:
            self._admit()

    def park(self, share: Share) -> None:
        """Takes the share from a turn that waits for its tools."""
        share.unhold()
        if share.state is _State.ADMITTED:
            self._give_back(share)
            share.become(_State.PARKED)
            self._admit()

    def enqueue_returning(self, share: Share) -> None:
        """Queues a parked turn whose tools have answered, ahead of all new turns."""
        share.become(_State.RETURNING)
        self._returning.append(share)
        self._admit()

    def release(self, share: Share) -> None:
        """Takes the share of a turn that has ended, in any state. Idempotent."""
        share.unhold()
        match share.state:
            case _State.ADMITTED:
                self._give_back(share)
            case _State.RETURNING:
                self._returning.remove(share)
            case _State.WAITING:
                queue = self._waiting[share.tenant]
                queue.remove(share)
                if not queue:
                    del self._waiting[share.tenant]
            case _State.PARKED | _State.RELEASED:
                pass
        share.become(_State.RELEASED)
        self._admit()

    def _admit(self) -> None:
        while (share := self._next()) is not None and self._fits(share):
            if self._returning:
                self._returning.popleft()
            else:
                self._pop_waiting()
            self._admitted.add(share)
            self._tokens_held += share.tokens
            share.become(_State.ADMITTED)
        for position, share in enumerate(self._in_order(), start=len(self._returning)):
            share.move_to(position)

    def _next(self) -> Share | None:
        if self._returning:
            return self._returning[0]
        return next(iter(self._waiting.values()))[0] if self._waiting else None

    def _fits(self, share: Share) -> bool:
        """Whether there is room. An idle engine takes any turn, or a large one would never run."""
        if self._capacity.slots == 0:
            return False
        if not self._admitted:
            return True
        admitted, kv_tokens = len(self._admitted), self._capacity.kv_tokens
        if admitted >= self._capacity.slots or (
            kv_tokens is not None and self._tokens_held + share.tokens > kv_tokens
        ):
            return False
        # A target for tokens keeps no turn out while none are generated.
        return admitted < self.turns_max or all(each.paused for each in self._admitted)

    def _pop_waiting(self) -> None:
        tenant, queue = next(iter(self._waiting.items()))
        queue.popleft()
        if queue:
            self._waiting.move_to_end(tenant)
        else:
            del self._waiting[tenant]

    def _in_order(self) -> Iterator[Share]:
        """New turns in the order in which they would start."""
        for one_per_tenant in itertools.zip_longest(*self._waiting.values()):
            yield from (share for share in one_per_tenant if share is not None)

    def _give_back(self, share: Share) -> None:
        self._admitted.discard(share)
        self._tokens_held -= share.tokens

    def _overloaded(self, who: str, count: int, scope: str) -> ServiceError:
        return ServiceError(
            Reason.OVERLOADED,
            f"{who} {count} turns waiting, which is the limit {scope}: try again in "
            f"{self.limits.retry_after_s:g} s, or on another replica",
            retry_after_s=self.limits.retry_after_s,
            metadata={"waiting": str(count)},
        )
