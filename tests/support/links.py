"""A link to a process with handlers, played by a test."""

from __future__ import annotations

import asyncio

from precall_service.domain.errors import Reason, ServiceError
from precall_service.domain.events import InvocationCancelReason, Invoke


class RecordingLink:
    """A `HandlerLink` that records what it is asked to send.

    While `taking` is false, its methods wait, as if the process's queue were full. After
    `break_off` they raise, as if the process were gone.
    """

    def __init__(self) -> None:
        self.asked: list[Invoke] = []
        """Everything that it was asked to send, whether it has accepted it or not."""
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
        """Refuses the waiting frames and all later ones."""
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
