"""What a handler is told about its run, how it reports progress, and how it waits for the model."""

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

    Concurrency: `tell`, `committed_from_thread` and the properties may be used from any thread, the
    rest from the client's event loop. Progress from a thread waits in a place for one message: a
    newer one replaces it.
    """

    def __init__(
        self,
        send_progress: SendProgress | None = None,
        *,
        timeout_s: float | None = None,
        call_id: str = "",
        speculative: bool = False,
    ) -> None:
        """Makes a link.

        Args:
            send_progress: Sends progress to the server; without it, progress is discarded.
            timeout_s: How long the run may take.
            call_id: The call that the run answers; empty if there is none yet.
            speculative: Whether the run is for a call that the model has not made.
        """
        self._send_progress = send_progress
        self._loop = asyncio.get_running_loop() if send_progress else None
        self._deadline = None if timeout_s is None else time.monotonic() + timeout_s
        self._call_id = call_id
        self._speculative = speculative
        # Set once it is known whether the model makes the call, for the event loop and for threads.
        self._decided = asyncio.Event()
        self._decided_in_thread = threading.Event()
        if not speculative:
            self._decide()
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

    @property
    def call_id(self) -> str:
        """The call that the run answers; empty while the run is speculative."""
        return self._call_id

    @property
    def speculative(self) -> bool:
        """Whether the model has not made the call."""
        return self._speculative

    def commit(self, call_id: str) -> None:
        """Notes that the model made the call. Too late after `cancel` and `end`."""
        if self._decided.is_set():
            return
        self._call_id = call_id
        self._speculative = False
        self._decide()

    def cancel(self) -> None:
        """Tells the handler that its run is cancelled."""
        self._cancelled.set()
        self._decide()

    def end(self) -> None:
        """Notes that the run has ended; progress is discarded from now on."""
        self._ended = True
        self._decide()

    async def committed(self) -> None:
        """Waits until the model has made the call.

        Raises:
            CancelledError: The run was cancelled or has ended first.
        """
        await self._decided.wait()
        if self._speculative:
            raise asyncio.CancelledError

    def committed_from_thread(self, timeout_s: float | None) -> bool:
        """Waits until it is known whether the model makes the call, and returns whether it did."""
        self._decided_in_thread.wait(timeout_s)
        return not self._speculative

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

    def _decide(self) -> None:
        self._decided.set()
        self._decided_in_thread.set()

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
    prediction_id: str = ""
    """The prediction for which the run was started early; empty for an ordinary run."""
    execution_id: str = ""
    """Stays the same when the run is retried: an idempotency key for handlers with effects."""
    traceparent: str = ""
    """W3C trace context of the call, which is also the handler's current OpenTelemetry context."""
    tracestate: str = ""
    """W3C trace state of the call."""
    _link: RunLink = field(default_factory=RunLink, repr=False, compare=False)

    @property
    def call_id(self) -> str:
        """The model's call that the run answers; empty while the run is speculative."""
        return self._link.call_id

    @property
    def speculative(self) -> bool:
        """Whether the run was started for a call that the model has not made (yet)."""
        return self._link.speculative

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

    async def committed(self) -> None:
        """Waits until the model has made the call; returns at once in an ordinary run.

        A handler of a speculative run can put off costly work until then. While it waits, the run
        keeps its slot among `max_concurrency`, and its timeout goes on.

        On cancel: also raises CancelledError if the run is cancelled, as when the prediction is
        discarded because the model did something else.
        """
        await self._link.committed()

    def committed_from_thread(self, timeout_s: float | None = None) -> bool:
        """Does the same for a synchronous handler: blocks, and returns whether it is committed.

        False means that the run was cancelled, or that the time is up and `speculative` is still
        true. A handler that was cancelled should return; its result is not used.

        Args:
            timeout_s: How long to wait, in seconds. None: until it is decided, at the latest when
                the run reaches its timeout.
        """
        return self._link.committed_from_thread(timeout_s)

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
