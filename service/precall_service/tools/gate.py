"""A bound on the runs of one tool at one process: so many slots, committed runs first.

Owns: who holds a slot, and the two queues for the next one.
Never: time. A run that has waited too long leaves; the gate does not notice how long it waited.
Concurrency: one event loop; all state changes are synchronous.
"""

from __future__ import annotations

import asyncio

from precall_service.domain.errors import Reason, ServiceError

COMMITTED_WAITING_MAX = 64
SPECULATIVE_WAITING_MAX = 8
"""Fewer than calls: a prediction that waits long is overtaken by the call that it predicts."""


class Ticket:
    """One run's claim to a slot. It holds the slot once `granted` is set."""

    def __init__(self) -> None:
        self.granted = asyncio.Event()


class Gate:
    """The slots of one tool.

    A free slot goes to the committed run that has waited longest, and to a speculative one only
    when no committed run waits. A run that finds its queue full is refused.
    """

    def __init__(self) -> None:
        self._slots = 0
        self._holders: set[Ticket] = set()
        # Dictionaries, as ordered sets: the oldest first.
        self._committed: dict[Ticket, None] = {}
        self._speculative: dict[Ticket, None] = {}

    @property
    def idle(self) -> bool:
        """Whether no run holds a slot or waits for one."""
        return not (self._holders or self._committed or self._speculative)

    def enter(self, slots: int, *, speculative: bool = False) -> Ticket:
        """A claim to one of the slots, whose number is `slots` from now on.

        Raises:
            ServiceError: OVERLOADED, too many runs of this kind wait.
        """
        self._slots = slots
        self._hand_out()
        if len(self._holders) >= slots:
            self._check_room(self._committed, COMMITTED_WAITING_MAX)
            if speculative:
                self._check_room(self._speculative, SPECULATIVE_WAITING_MAX)
        ticket = Ticket()
        queue = self._speculative if speculative else self._committed
        queue[ticket] = None
        self._hand_out()
        return ticket

    def commit(self, ticket: Ticket) -> None:
        """Moves a speculative run that waits to the end of the committed queue.

        It is never refused. The committed queue stays bounded, by the sum of the two limits,
        because no speculative run may start to wait while that queue is at its own limit.
        """
        if ticket in self._speculative:
            del self._speculative[ticket]
            self._committed[ticket] = None

    def leave(self, ticket: Ticket) -> None:
        """Gives up a slot, or the wait for one. Idempotent."""
        self._holders.discard(ticket)
        self._committed.pop(ticket, None)
        self._speculative.pop(ticket, None)
        self._hand_out()

    def _check_room(self, queue: dict[Ticket, None], limit: int) -> None:
        if len(queue) >= limit:
            raise ServiceError(
                Reason.OVERLOADED,
                f"{len(self._holders)} runs of this tool are in flight and {len(queue)} wait, the"
                f" limit is {limit}; make fewer calls at once",
                metadata={"limit": str(limit)},
            )

    def _hand_out(self) -> None:
        while len(self._holders) < self._slots and (queue := self._committed or self._speculative):
            ticket = next(iter(queue))
            del queue[ticket]
            self._holders.add(ticket)
            ticket.granted.set()
