"""Admits turns while the engine has a slot and KV for them, and tells the others where they stand.

Owns: the shares of admitted turns, and the free capacity. The turns that wait are in the
    `FairQueue`, which also says whose turn is next.
Never: generates, or knows what a turn does.
Concurrency: one event loop; all methods are synchronous.

The head of the queue is never skipped for a smaller turn behind it, so that a large turn cannot
starve.

With a target for the time of a token, fewer turns may be admitted than the engine has slots. Turns
that are admitted keep their shares, and one always runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from precall_service.admission.fair_queue import FairQueue
from precall_service.admission.latency import LatencyControl
from precall_service.admission.limits import AdmissionLimits
from precall_service.admission.positions import Positions
from precall_service.admission.share import Share, ShareState
from precall_service.domain.clock import Clock

OVERGROWN: Final = 1.5
"""The fraction of the KV cache from which on turns that wait for tools give up their shares. It is
above 1 since a turn needs none of it while its tools run, and turns may have a prefix in common."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """The engine's capacity: sequences at once, and tokens of KV cache, if it is known."""

    slots: int
    kv_tokens: int | None


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
        self._queue = FairQueue(limits.running_per_tenant_max)
        self._positions = Positions(clock, self._queue.order, every_s=limits.positions_s)

    @property
    def hold_s(self) -> float:
        """How long a turn keeps its share while its tools run."""
        return self.limits.hold_s

    @property
    def admitted(self) -> int:
        """Turns that hold a share."""
        return len(self._admitted)

    @property
    def waiting(self) -> int:
        """Turns that wait, returning ones included."""
        return len(self._queue)

    def waiting_by_tenant(self) -> dict[str, int]:
        """Turns that wait, returning ones included, of each tenant that has any."""
        return self._queue.by_tenant()

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
        self._queue.resize(slots=capacity.slots, kv_tokens=capacity.kv_tokens)
        self._admit()

    def suspend(self) -> None:
        """Stops admitting turns until `resize` is called with the next engine's capacity."""
        self._capacity = Capacity(slots=0, kv_tokens=0)

    def enter(self, tenant: str, tokens: int) -> Share:
        """Returns a share with `tokens` of KV for a turn of this tenant, admitted or waiting.

        Raises:
            ServiceError: OVERLOADED, the queue has no place for a turn of this tenant.
        """
        waiting, queue = self.waiting, self._queue
        self.limits.check_room(tenant, of_tenant=queue.new_turns(tenant), in_all=waiting)
        share = Share(self, tenant, tokens)
        queue.add(share)
        self._admit()
        if not share.placed:
            # Not more than so many start before it. The next pass tells it how many do.
            share.move_to(waiting)
        return share

    def grow(self, share: Share, tokens: int) -> None:
        """Enlarges a share, as `Share.grow` says."""
        more = tokens - share.tokens
        if more > 0:
            share.tokens = tokens
            if share in self._admitted:
                self._tokens_held += more
                self._queue.grow(share, more)

    def paused(self, share: Share) -> None:
        """Notes that a turn waits for its tools. If no other runs, the next one may start.

        If the admitted turns have grown far beyond the KV cache, the turn gives its share up: the
        engine has no room for its cache in any case, and the others need it.
        """
        kv_tokens, alone = self._capacity.kv_tokens, len(self._admitted) == 1
        if kv_tokens and self._tokens_held > OVERGROWN * kv_tokens and not alone:
            self.park(share)
        elif self._latency is not None:
            self._admit()

    def park(self, share: Share) -> None:
        """Takes the share from a turn that waits for its tools."""
        share.unhold()
        if share.state is ShareState.ADMITTED:
            self._give_back(share)
            share.become(ShareState.PARKED)
            self._admit()

    def enqueue_returning(self, share: Share) -> None:
        """Queues a parked turn whose tools have answered, ahead of its tenant's new turns."""
        share.become(ShareState.RETURNING)
        self._queue.add(share)
        self._admit()

    def release(self, share: Share) -> None:
        """Takes the share of a turn that has ended, in any state. Idempotent."""
        share.unhold()
        if share.state is ShareState.RELEASED:
            return
        if share.state is ShareState.ADMITTED:
            self._give_back(share)
        elif share.queued:
            self._queue.remove(share)
        share.become(ShareState.RELEASED)
        self._admit()

    def _admit(self) -> None:
        while (share := self._queue.head()) is not None and self._fits(share):
            self._queue.take(share)
            self._admitted.add(share)
            self._tokens_held += share.tokens
            share.become(ShareState.ADMITTED)
        if self.waiting:
            self._positions.change()
        else:
            self._positions.stop()

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

    def _give_back(self, share: Share) -> None:
        self._admitted.discard(share)
        self._tokens_held -= share.tokens
        self._queue.give_back(share)
