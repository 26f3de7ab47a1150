"""Lets turns in while a slot and their KV are there, and tells the others their place.

Owns: the shares of admitted turns, the queue of waiting ones, and what of the capacity is free.
Never: generates, or knows what a turn does.
Concurrency: one event loop; every method but `place` and `resume` is synchronous.

Order of admission: turns that come back after giving their share up, first; then new turns, round
robin over tenants and in order of arrival within one. The head of that order is never skipped for
a smaller turn behind it, so that a large one cannot starve.
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

from precall_service.domain.clock import Clock, Timer
from precall_service.domain.errors import Reason, ServiceError


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """What the engine holds: sequences at once, and tokens of KV cache."""

    slots: int
    kv_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmissionLimits:
    """How long the queue may grow, and how long a turn keeps its share while its tools run.

    `hold_s`: most tools answer within a second or two (86 to 95 % in published coding traces);
    beyond it a held share costs others more than the re-prefill costs this turn. `wait_max_s`: how
    long a turn may wait for its first admission.
    """

    waiting_max: int = 1024
    waiting_per_tenant_max: int = 256
    hold_s: float = 5.0
    wait_max_s: float = 600.0
    retry_after_s: float = 1.0


class _State(enum.Enum):
    WAITING = "waiting for its first admission"
    ADMITTED = "holds its share"
    PARKED = "gave its share up while its tools run"
    RETURNING = "waits to get its share back"
    RELEASED = "gone"


class Share:
    """One turn's place in the engine: waited for, held, given up while tools are slow, returned.

    A context manager: leaving it gives everything back, whatever the state.
    """

    def __init__(self, admission: Admission, tenant: str, tokens: int) -> None:
        self._admission = admission
        self._state = _State.WAITING
        self._hold: Timer | None = None
        self._changed = asyncio.Event()
        self._place: int | None = None
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
        """Where the share stands."""
        return self._state

    async def place(self) -> int | None:
        """The next place in the queue that was not told yet, None once the turn is admitted.

        On cancel: the turn keeps its place; leaving the context gives it up.
        """
        while True:
            if self._state is _State.ADMITTED:
                return None
            if self._place is not None and self._place != self._told:
                self._told = self._place
                return self._place
            self._changed.clear()
            await self._changed.wait()

    def grow(self, tokens: int) -> None:
        """The turn has come to hold `tokens` of KV: more than expected makes its share larger."""
        self._admission.grow(self, tokens)

    def pause(self) -> None:
        """The turn waits for tools from now on; after the hold time its share is given up."""
        if self._state is _State.ADMITTED and self._hold is None:
            admission = self._admission
            self._hold = admission.clock.call_later(
                admission.limits.hold_s, lambda: admission.park(self)
            )

    async def resume(self) -> None:
        """Returns once the turn may generate again: at once within the hold time.

        On cancel: the turn stays where it is; leaving the context gives everything back.
        """
        self.unhold()
        if self._state is _State.PARKED:
            self._admission.enqueue_returning(self)
        while self._state is not _State.ADMITTED:
            self._changed.clear()
            await self._changed.wait()

    def unhold(self) -> None:
        """No longer counts down to giving the share up."""
        if self._hold is not None:
            self._hold.cancel()
            self._hold = None

    def become(self, state: _State) -> None:
        """Only the admission calls this: changes the state and wakes the turn."""
        self._state = state
        self._changed.set()

    def move_to(self, place: int) -> None:
        """Only the admission calls this: the place in the queue, which wakes the turn if new."""
        if place != self._place:
            self._place = place
            self._changed.set()


class Admission:
    """Decides when a turn may start, and when one that stepped aside may go on."""

    def __init__(self, clock: Clock, limits: AdmissionLimits) -> None:
        self.clock = clock
        self.limits = limits
        self._capacity = Capacity(slots=0, kv_tokens=0)
        self._admitted: set[Share] = set()
        self._tokens_held = 0
        self._returning: deque[Share] = deque()
        self._waiting: OrderedDict[str, deque[Share]] = OrderedDict()
        """Tenants in the order of their next turn: the first one is served, then goes last."""

    @property
    def admitted(self) -> int:
        """Turns that hold a share."""
        return len(self._admitted)

    @property
    def waiting(self) -> int:
        """Turns that wait, returning ones included."""
        return len(self._returning) + sum(map(len, self._waiting.values()))

    def resize(self, capacity: Capacity) -> None:
        """The engine holds this much from now on. Nobody admitted is put out."""
        self._capacity = capacity
        self._admit()

    def suspend(self) -> None:
        """There is no engine: nobody is let in until `resize` says what the next one holds."""
        self._capacity = Capacity(slots=0, kv_tokens=0)

    def enter(self, tenant: str, tokens: int) -> Share:
        """A share of `tokens` of KV for a turn of this tenant, admitted or waiting.

        Raises:
            ServiceError: OVERLOADED, the queue is full.
        """
        queue = self._waiting.get(tenant, ())
        if len(queue) >= self.limits.waiting_per_tenant_max:
            raise self._overloaded(f"tenant {tenant!r} has", len(queue), "per tenant")
        if self.waiting >= self.limits.waiting_max:
            raise self._overloaded("this server has", self.waiting, "in all")
        share = Share(self, tenant, tokens)
        self._waiting.setdefault(tenant, deque()).append(share)
        self._admit()
        return share

    def grow(self, share: Share, tokens: int) -> None:
        """See Share.grow."""
        if tokens > share.tokens:
            if share in self._admitted:
                self._tokens_held += tokens - share.tokens
            share.tokens = tokens

    def park(self, share: Share) -> None:
        """Takes the share back from a turn that waits for its tools."""
        share.unhold()
        if share.state is _State.ADMITTED:
            self._give_back(share)
            share.become(_State.PARKED)
            self._admit()

    def enqueue_returning(self, share: Share) -> None:
        """The tools of a parked turn have answered: it waits ahead of every new turn."""
        share.become(_State.RETURNING)
        self._returning.append(share)
        self._admit()

    def release(self, share: Share) -> None:
        """The turn has ended, in whatever state. Idempotent."""
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
        for place, share in enumerate(self._in_order(), start=len(self._returning)):
            share.move_to(place)

    def _next(self) -> Share | None:
        if self._returning:
            return self._returning[0]
        return next(iter(self._waiting.values()))[0] if self._waiting else None

    def _fits(self, share: Share) -> bool:
        """Whether there is room; an idle engine takes any turn, or it would wait for ever."""
        if self._capacity.slots == 0:
            return False
        if not self._admitted:
            return True
        return (
            len(self._admitted) < self._capacity.slots
            and self._tokens_held + share.tokens <= self._capacity.kv_tokens
        )

    def _pop_waiting(self) -> None:
        tenant, queue = next(iter(self._waiting.items()))
        queue.popleft()
        if queue:
            self._waiting.move_to_end(tenant)
        else:
            del self._waiting[tenant]

    def _in_order(self) -> Iterator[Share]:
        """New turns in the order in which they would start."""
        for one_of_each_tenant in itertools.zip_longest(*self._waiting.values()):
            yield from (share for share in one_of_each_tenant if share is not None)

    def _give_back(self, share: Share) -> None:
        self._admitted.discard(share)
        self._tokens_held -= share.tokens

    def _overloaded(self, who: str, count: int, scope: str) -> ServiceError:
        return ServiceError(
            Reason.OVERLOADED,
            f"{who} {count} turns waiting, the limit {scope}: try again in "
            f"{self.limits.retry_after_s:g} s, or on another replica",
            retry_after_s=self.limits.retry_after_s,
            metadata={"waiting": str(count)},
        )
