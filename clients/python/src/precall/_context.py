"""What a handler is told about the run that it serves, and how it says how far it is."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from precall._errors import PrecallError

logger = logging.getLogger("precall")


async def _nowhere(message: str, fraction: float | None) -> None:
    """Takes the progress of a context that belongs to no run."""


class _Latest:
    """Passes on what a thread says, one at a time; what the loop had no time for is replaced."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._said: tuple[str, float | None] | None = None
        self._passing_on = False

    def say(self, context: ToolContext, message: str, fraction: float | None) -> None:
        """Takes what a thread says. Returns without waiting."""
        assert context.loop is not None
        with self._lock:
            self._said = (message, fraction)
            if self._passing_on:
                return
            self._passing_on = True
        asyncio.run_coroutine_threadsafe(self._pass_on(context), context.loop)

    async def _pass_on(self, context: ToolContext) -> None:
        while (said := self._next()) is not None:
            try:
                await context.on_progress(*said)
            except PrecallError as error:
                logger.debug("progress of %s could not be sent: %s", context.tool_name, error)

    def _next(self) -> tuple[str, float | None] | None:
        with self._lock:
            said, self._said = self._said, None
            self._passing_on = said is not None
            return said


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolContext:
    """The run that a handler serves. A parameter annotated with it is filled in by precall.

    It is no part of the tool's schema. `ToolContext()` is enough to call a tool in a unit test:
    its progress goes nowhere.
    """

    tool_name: str = ""
    """Name of the tool."""
    invocation_id: str = ""
    """Names this run."""
    execution_id: str = ""
    """Survives retries and reconnects: what a handler with side effects makes itself safe with."""
    call_id: str = ""
    """The model's call that is answered; empty when the run is speculative."""
    turn_id: str = ""
    """The turn that it serves."""
    conversation_id: str = ""
    """The conversation that it serves."""
    deadline: float | None = None
    """When the handler is given up, on the clock of `time.monotonic()`."""
    traceparent: str = ""
    """W3C trace context of the call; also the current OpenTelemetry context of the handler."""
    tracestate: str = ""
    """W3C trace state of the call."""
    on_progress: Callable[[str, float | None], Awaitable[None]] = field(default=_nowhere)
    """Takes what `progress` says."""
    cancel_event: threading.Event = field(default_factory=threading.Event)
    """Set when the run is no longer wanted."""
    loop: asyncio.AbstractEventLoop | None = None
    """The event loop of the client."""
    _latest: _Latest = field(default_factory=_Latest, init=False, repr=False, compare=False)

    @property
    def cancelled(self) -> bool:
        """Whether the run is no longer wanted. For synchronous handlers, which may look at it."""
        return self.cancel_event.is_set()

    @property
    def remaining_s(self) -> float | None:
        """Seconds until the handler is given up; None where there is no deadline."""
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())

    async def progress(self, message: str, fraction: float | None = None) -> None:
        """Tells whoever follows the turn how far the run is. It does not extend the deadline.

        Args:
            message: What the handler is doing, for people.
            fraction: How far it is, from 0 to 1.
        """
        await self.on_progress(message, fraction)

    def progress_from_thread(self, message: str, fraction: float | None = None) -> None:
        """Does what `progress` does, from a synchronous handler. Returns without waiting.

        What is said faster than it can be sent is left out, except for the latest.
        """
        if self.loop is not None and not self.cancelled:
            self._latest.say(self, message, fraction)
