"""A process that holds handlers, as a test plays it."""

from __future__ import annotations

import asyncio

from precall_service.domain.errors import Reason, ServiceError
from precall_service.domain.events import InvocationCancelReason, Invoke


class RecordingLink:
    """A `HandlerLink` that keeps what it is sent.

    While it is not `taking`, its methods wait, as those of a process whose queue is full. After
    `break_off` they raise, as those of a process that is gone.
    """

    def __init__(self) -> None:
        self.asked: list[Invoke] = []
        """All that it was to send, whether it took them or not."""
        self.invocations: list[Invoke] = []
        self.commits: list[tuple[str, str]] = []
        self.cancels: list[tuple[str, InvocationCancelReason]] = []
        self.broken = False
        self._moves = asyncio.Event()
        self._moves.set()

    @property
    def taking(self) -> bool:
        return self._moves.is_set()

    @taking.setter
    def taking(self, taking: bool) -> None:
        if taking:
            self._moves.set()
        else:
            self._moves.clear()

    def break_off(self) -> None:
        """Refuses the frames that wait and all later ones."""
        self.broken = True
        self._moves.set()

    async def invoke(self, invocation: Invoke) -> None:
        self.asked.append(invocation)
        await self._accept()
        self.invocations.append(invocation)

    async def commit(self, invocation_id: str, call_id: str) -> None:
        await self._accept()
        self.commits.append((invocation_id, call_id))

    async def cancel(self, invocation_id: str, reason: InvocationCancelReason) -> None:
        await self._accept()
        self.cancels.append((invocation_id, reason))

    async def _accept(self) -> None:
        await self._moves.wait()
        if self.broken:
            raise ServiceError(Reason.TOOL_UNAVAILABLE, "the stream has ended")
