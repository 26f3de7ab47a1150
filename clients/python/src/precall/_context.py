"""What a handler is told about its run, and how it reports its progress."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeAlias

from precall._errors import PrecallError

logger = logging.getLogger("precall")

SendProgress: TypeAlias = Callable[[str, float | None], Awaitable[None]]


class RunLink:
    """Connects the context of a handler with the run that the client serves.

    Concurrency: `tell` and the properties may be used from any thread, the rest from the client's
    event loop. Progress from a thread waits in a place for one message: a newer one replaces it.
    """

    def __init__(
        self, send_progress: SendProgress | None = None, *, timeout_s: float | None = None
    ) -> None:
        """Makes a link; without `send_progress`, progress is discarded."""
        self._send_progress = send_progress
        self._loop = asyncio.get_running_loop() if send_progress else None
        self._deadline = None if timeout_s is None else time.monotonic() + timeout_s
        self._cancelled = threading.Event()
        self._ended = False
        self._lock = threading.Lock()
        self._latest: tuple[str, float | None] | None = None
        self._is_sending = False

    @property
    def cancelled(self) -> bool:
        """Whether the run has been cancelled or is past its deadline."""
        return self._cancelled.is_set()

    @property
    def remaining_s(self) -> float | None:
        """Seconds until the deadline; None without one."""
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def cancel(self) -> None:
        """Tells the handler that its run is cancelled."""
        self._cancelled.set()

    def end(self) -> None:
        """Notes that the run has ended; progress is discarded from now on."""
        self._ended = True

    async def send(self, message: str, fraction: float | None) -> None:
        """Sends progress to the server.

        Raises:
            PrecallError: The conversation has ended.
        """
        if self._send_progress is not None and not self._ended:
            await self._send_progress(message, fraction)

    def tell(self, message: str, fraction: float | None) -> None:
        """Takes progress from a thread. Returns without waiting."""
        if self._loop is None or self.cancelled:
            return
        with self._lock:
            self._latest = (message, fraction)
            if self._is_sending:
                return
            self._is_sending = True
        asyncio.run_coroutine_threadsafe(self._send_latest(), self._loop)

    async def _send_latest(self) -> None:
        while (latest := self._take()) is not None:
            try:
                await self.send(*latest)
            except PrecallError as error:
                logger.debug("progress could not be sent: %s", error)

    def _take(self) -> tuple[str, float | None] | None:
        with self._lock:
            latest, self._latest = self._latest, None
            self._is_sending = latest is not None
            return latest


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolContext:
    """The run that a handler serves. The client fills in a parameter that is annotated with it.

    The parameter is not part of the tool's schema. `ToolContext()` is enough to call a tool in a
    unit test: it has no deadline, and its progress is discarded.
    """

    tool_name: str = ""
    """Name of the tool."""
    conversation_id: str = ""
    """The conversation that the call belongs to."""
    turn_id: str = ""
    """The turn that the call belongs to."""
    call_id: str = ""
    """The model's call that the run answers; empty when the run is speculative."""
    execution_id: str = ""
    """Stays the same when the run is retried: an idempotency key for handlers with effects."""
    traceparent: str = ""
    """W3C trace context of the call, which is also the handler's current OpenTelemetry context."""
    tracestate: str = ""
    """W3C trace state of the call."""
    _link: RunLink = field(default_factory=RunLink, repr=False, compare=False)

    @property
    def cancelled(self) -> bool:
        """Whether the run has been cancelled or is past its deadline.

        For synchronous handlers, which can check it; asynchronous ones get CancelledError.
        """
        return self._link.cancelled

    @property
    def remaining_s(self) -> float | None:
        """Seconds until the handler is cancelled; None when there is no deadline."""
        return self._link.remaining_s

    async def progress(self, message: str, fraction: float | None = None) -> None:
        """Reports progress to the reader of the turn. It does not extend the deadline.

        Args:
            message: What the handler is doing, for people.
            fraction: How far the run is, from 0 to 1.
        """
        await self._link.send(message, fraction)

    def progress_from_thread(self, message: str, fraction: float | None = None) -> None:
        """Reports progress from a synchronous handler. Returns without waiting.

        When messages come faster than they can be sent, only the latest is sent.
        """
        self._link.tell(message, fraction)
