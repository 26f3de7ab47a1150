"""A bound on the runs of one tool at one process: so many slots, committed runs first.

Owns: who holds a slot, and the two queues for the next one.
Never: time. A run that has waited too long leaves; the gate does not notice how long it waited.
Concurrency: one event loop; all state changes are synchronous.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from precall_service.domain.errors import Reason, ServiceError

COMMITTED_WAITING_MAX = 64
SPECULATIVE_WAITING_MAX = 8
"""Fewer than calls: a prediction that waits long is overtaken by the call that it predicts."""


RETRY_AFTER_S = 1.0


class Ticket:
    """One run's claim to a slot. It holds the slot once `granted` is set.

    `evict`: with a speculative run, ends the run so that a committed one gets its slot.
    """

    def __init__(self, evict: Callable[[], None] | None = None) -> None:
        self.granted = asyncio.Event()
        self.evict = evict


class Gate:
    """The slots of one tool.

    A free slot goes to the committed run that has waited longest, and to a speculative one only
    when no committed run waits. A committed run that finds no free slot takes that of the youngest
    speculative run, which is evicted. A run that finds its queue full is refused.
    """

    def __init__(self) -> None:
        self._slots = 0
        # Dictionaries, as ordered sets: the oldest first.
        self._holders: dict[Ticket, None] = {}
        self._committed: dict[Ticket, None] = {}
        self._speculative: dict[Ticket, None] = {}

    @property
    def idle(self) -> bool:
        """Whether no run holds a slot or waits for one."""
        return not (self._holders or self._committed or self._speculative)

    def enter(self, slots: int, *, evict: Callable[[], None] | None = None) -> Ticket:
        """A claim to one of the slots, whose number is `slots` from now on.

        A run with `evict` is speculative: it is called at most once, if a committed run needs the
        slot, and the run must then end soon and leave.

        Raises:
            ServiceError: OVERLOADED, too many runs of this kind wait.
        """
        self._slots = slots
        self._hand_out()
        if len(self._holders) >= slots:
            self._check_room(self._committed, COMMITTED_WAITING_MAX)
            if evict is not None:
                self._check_room(self._speculative, SPECULATIVE_WAITING_MAX)
        ticket = Ticket(evict)
        queue = self._committed if evict is None else self._speculative
        queue[ticket] = None
        self._hand_out()
        self._evict_for_committed()
        return ticket

    def commit(self, ticket: Ticket) -> None:
        """Moves a speculative run that waits to the end of the committed queue.

        It is never refused. The committed queue stays bounded, by the sum of the two limits,
        because no speculative run may start to wait while that queue is at its own limit.
        """
        ticket.evict = None
        if ticket in self._speculative:
            del self._speculative[ticket]
            self._committed[ticket] = None
            self._evict_for_committed()

    def leave(self, ticket: Ticket) -> None:
        """Gives up a slot, or the wait for one. Idempotent."""
        self._holders.pop(ticket, None)
        self._committed.pop(ticket, None)
        self._speculative.pop(ticket, None)
        self._hand_out()

    def _check_room(self, queue: dict[Ticket, None], limit: int) -> None:
        if len(queue) >= limit:
            raise ServiceError(
                Reason.OVERLOADED,
                f"{len(self._holders)} runs of this tool are in flight and {len(queue)} wait, the"
                f" limit is {limit}; make fewer calls at once",
                retry_after_s=RETRY_AFTER_S,
                metadata={"limit": str(limit)},
            )

    def _hand_out(self) -> None:
        while len(self._holders) < self._slots and (queue := self._committed or self._speculative):
            ticket = next(iter(queue))
            del queue[ticket]
            self._holders[ticket] = None
            ticket.granted.set()

    def _evict_for_committed(self) -> None:
        """Evicts as many speculative holders as committed runs wait; those evicted still leave."""
        leaving = sum(1 for each in self._holders if each.evict is _evicted)
        for ticket in reversed(self._holders):
            if leaving >= len(self._committed):
                return
            if ticket.evict is not None and ticket.evict is not _evicted:
                evict, ticket.evict = ticket.evict, _evicted
                leaving += 1
                evict()


def _evicted() -> None:
    """Marks a ticket whose run was evicted and has not left yet."""
