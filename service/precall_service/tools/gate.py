"""A bound on the runs of one tool at one process: so many places, first come, first served.

Never: time. Who waits too long is cancelled from outside.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress

from precall_service.domain.errors import Reason, ServiceError

WAITING_MAX = 64


class Gate:
    """Places for runs. At most WAITING_MAX wait for one; more are refused."""

    def __init__(self) -> None:
        self._places = 0
        self._taken = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def idle(self) -> bool:
        """Whether nobody runs and nobody waits."""
        return not self._taken and not self._waiting

    async def enter(self, places: int) -> None:
        """Takes one of now `places` places, as soon as there is one.

        On cancel: no place is taken and the queue closes up.

        Raises:
            ServiceError: OVERLOADED, too many wait.
        """
        self._places = places
        self._hand_out()
        if self._taken < places:
            self._taken += 1
            return
        if len(self._waiting) >= WAITING_MAX:
            raise ServiceError(
                Reason.OVERLOADED,
                f"{places} runs of this tool are in flight and {WAITING_MAX} wait, the limit;"
                " make fewer calls at once",
                metadata={"limit": str(WAITING_MAX)},
            )
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.cancelled():
                # Or someone has passed over it already.
                with suppress(ValueError):
                    self._waiting.remove(waiter)
            else:
                # The place came in the same breath as the cancel: it goes to the next one.
                self.leave()
            raise

    def leave(self) -> None:
        """Gives a place back."""
        self._taken -= 1
        self._hand_out()

    def _hand_out(self) -> None:
        while self._waiting and self._taken < self._places:
            waiter = self._waiting.popleft()
            # One that was cancelled a moment ago may still stand in the queue.
            if not waiter.done():
                self._taken += 1
                waiter.set_result(None)
