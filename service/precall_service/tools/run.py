"""One run of a handler in another process, from its launch to the last frame about it.

Owns: the ending of the run, its deadlines, and what its process is told about it.
Never: what the ending is used for, how frames travel.
Concurrency: one event loop; all state changes are synchronous. One task of the dispatcher works for
    each run. The ending of the run cancels the task, which then only tells the process to stop, if
    necessary, and gives up the tool's slot.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field

from precall_service.domain.clock import Clock
from precall_service.domain.endings import InvocationEnding
from precall_service.domain.errors import ServiceError
from precall_service.domain.events import InvocationCancelReason, Invoke, TraceContext
from precall_service.domain.text import encodable
from precall_service.incidents import report_defect
from precall_service.tasks import traceless
from precall_service.tools import failures
from precall_service.tools.answers import read_answer
from precall_service.tools.arguments import check_arguments
from precall_service.tools.checks import Checks
from precall_service.tools.declarations import ToolLimits
from precall_service.tools.gate import Gate, Ticket
from precall_service.tools.link import HandlerAnswer
from precall_service.tools.peer import Peer
from precall_service.tools.text import shorten
from precall_service.tools.timeout import within
from precall_service.tools.toolset import RegisteredTool

log = logging.getLogger(__name__)

CANCEL_TIMEOUT_S = 1.0
"""How long a process may take to accept the frame that tells it to stop a run."""
PROGRESS_CHARS_MAX = 1024

ProgressListener = Callable[[str, float | None], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class InvocationContext:
    """For whom a handler runs."""

    turn_id: str
    conversation_id: str
    trace_context: TraceContext = field(default_factory=TraceContext)


def run_time_max_s(tool: RegisteredTool) -> float:
    """Returns how long a run may take: to get a slot, to be sent, and in its handler."""
    return 2 * tool.declaration.timeout_s + failures.SEND_TIMEOUT_S


class Run:
    """The handle of one run, which ends exactly once.

    Attributes:
        invocation_id: Names the run on the wire.
        execution_id: Names the execution for an idempotent handler.
        tool: The registration with which the handler runs; until the run has its slot, an update
            of the tool may replace it.
        call_id: The call that the run answers; empty while the run is speculative.
        prediction_id: The prediction that started the run; empty if there is none.
        sent: Whether the process was sent the invocation. Only then can the handler have effects.
        ended: The ending; None until the run ends.
        launched_at: When the run was launched.
        ended_at: When it ended; None until then.
    """

    def __init__(
        self,
        *,
        tool: RegisteredTool,
        arguments_json: str,
        context: InvocationContext,
        call_id: str,
        prediction_id: str,
        pinned: bool,
        peer: Peer,
        clock: Clock,
        limits: ToolLimits,
        checks: Checks,
    ) -> None:
        self.invocation_id = uuid.uuid4().hex
        self.execution_id = uuid.uuid4().hex
        self.tool = tool
        self.call_id = call_id
        self.prediction_id = prediction_id
        self.sent = False
        self.ended: InvocationEnding | None = None
        self.launched_at = clock.now()
        self.ended_at: float | None = None
        self._pinned = pinned
        self._arguments_json = arguments_json
        self._context = context
        self._peer = peer
        self._clock = clock
        self._limits = limits
        self._checks = checks
        self._listeners: list[ProgressListener] = []
        self._late_listeners: list[Callable[[], None]] = []
        self._committed = asyncio.Event()
        self._over = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._ticket: tuple[Gate, Ticket] | None = None
        self._answering = False
        """Whether the handler has answered, and its answer is being checked."""
        self._unwanted: InvocationCancelReason | None = None
        """Why the process must be told to stop."""
        peer.runs[self.invocation_id] = self

    # For the owner of the run.

    @property
    def took_s(self) -> float:
        """How long the run took. It must have ended."""
        assert self.ended_at is not None, "the run has not ended"
        return self.ended_at - self.launched_at

    @property
    def speculative(self) -> bool:
        """Whether the run answers no call yet."""
        return not self.call_id

    async def ending(self) -> InvocationEnding:
        """Returns the ending, as soon as the run has ended. Several tasks may wait for it.

        It takes at most the tool's timeout for a free slot, SEND_TIMEOUT_S for the process to take
        the invocation, and the tool's timeout for the handler.

        On cancel: the run goes on.
        """
        await self._over.wait()
        assert self.ended is not None
        return self.ended

    async def closed(self) -> None:
        """Returns once the run has ended and its process has been told to stop, if necessary.

        That is CANCEL_TIMEOUT_S after the ending at the latest, even if the process takes no frame.

        On cancel: the run goes on.
        """
        await self._over.wait()
        if self._task is not None and not self._task.done():
            await asyncio.wait([self._task])

    def on_progress(self, listener: ProgressListener) -> None:
        """Adds a listener that is called with each progress report from now on."""
        self._listeners.append(listener)

    def on_late_answer(self, listener: Callable[[], None]) -> None:
        """Adds a listener that is called if the handler answers after the run has ended.

        The handler may then have had its effects after the end of the run.
        """
        self._late_listeners.append(listener)

    def commit(self, call_id: str) -> None:
        """Makes a speculative run answer a call, and tells its process. Idempotent.

        Raises:
            ValueError: a defect of the caller: the id is empty, or the run answers another call.
        """
        if not call_id or self.call_id not in ("", call_id):
            raise ValueError(f"a run of call {self.call_id!r} cannot answer call {call_id!r}")
        self.call_id = call_id
        self._committed.set()
        if self._ticket is not None:
            gate, ticket = self._ticket
            gate.commit(ticket)

    def discard(self, reason: InvocationCancelReason) -> None:
        """Ends a run that is no longer wanted, as CANCELLED, and ignores its late answer.

        A run that has not been sent never starts. A run that has ended is not changed.
        """
        self._give_up(reason, failures.discarded(self.tool, reason, sent=self.sent))

    # For the dispatcher.

    def start(self, group: asyncio.TaskGroup) -> asyncio.Task[None]:
        """Starts the task that works for the run."""
        self._task = group.create_task(
            traceless(self._work), name=f"run for {self._context.conversation_id}"
        )
        return self._task

    async def take_answer(self, answer: HandlerAnswer) -> None:
        """Ends the run with its handler's answer.

        Raises:
            ServiceError: TOO_LARGE or RESULT_INVALID, or INTERNAL for a defect: the run ended with
                that error.
        On cancel: the run goes on.
        """
        self.sent = True  # a process may answer before `HandlerLink.invoke` returns
        self._answering, error = True, None
        try:
            ending = await read_answer(self.tool, answer, self._limits, self._checks)
        except ServiceError as refused:
            error, ending = refused, InvocationEnding.of_error(refused)
        except Exception as defect:  # noqa: BLE001 - a defect of ours must not leave the call open
            error = report_defect(log, f"a result of tool {self.tool.name!r}", defect)
            ending = InvocationEnding.of_error(error)
        finally:
            self._answering = False
        if self.ended is None:
            self._end(ending)
        elif (answered_late := self._peer.owed.pop(self.invocation_id, None)) is not None:
            answered_late()  # the run was given up while its answer was checked
        if error is not None:
            try:
                raise error
            finally:
                del error  # its traceback refers to this frame

    def take_progress(self, message: str, fraction: float | None) -> None:
        """Passes a progress report of the handler to the listeners."""
        message = shorten(encodable(message), PROGRESS_CHARS_MAX)
        for listener in self._listeners:
            listener(message, fraction)

    def lose(self) -> None:
        """Ends the run because its process is gone."""
        self._end(InvocationEnding.of_error(failures.gone(self.tool, sent=self.sent)))

    # Its life.

    async def _work(self) -> None:
        with self._failures_end_it():
            async with self._tool_slot():
                try:
                    with self._failures_end_it():
                        await self._take_current_registration()
                        await self._run_handler()
                finally:
                    if self._unwanted is not None and not self._peer.lost:
                        await self._tell_to_stop(self._unwanted)

    @contextmanager
    def _failures_end_it(self) -> Generator[None]:
        """Ends the run with what its block raises, unless the run has ended already."""
        try:
            yield
        except ServiceError as error:
            self._give_up(InvocationCancelReason.CALL_CANCELLED, error)
        except Exception as defect:  # noqa: BLE001 - a defect of ours must not end other runs
            error = report_defect(log, f"a run of tool {self.tool.name!r}", defect)
            self._give_up(InvocationCancelReason.CALL_CANCELLED, error)

    @asynccontextmanager
    async def _tool_slot(self) -> AsyncGenerator[None]:
        """Holds one of the tool's slots at its process. On cancel: it is given back."""
        declaration, gates = self.tool.declaration, self._peer.gates
        gate = gates.setdefault(declaration.name, Gate())
        ticket = gate.enter(
            declaration.max_concurrency, evict=self._evict if self.speculative else None
        )
        self._ticket = gate, ticket
        try:
            with self._deadline(declaration.timeout_s, failures.kept_waiting):
                await ticket.granted.wait()
            yield
        finally:
            gate.leave(ticket)
            if gate.idle:
                gates.pop(declaration.name, None)

    def _evict(self) -> None:
        self.discard(InvocationCancelReason.PREDICTION_DISCARDED)

    async def _take_current_registration(self) -> None:
        """Replaces the registration if the tool was updated while the run waited.

        Raises:
            ServiceError: TOOL_UNAVAILABLE, TOO_LARGE or ARGUMENTS_INVALID.
        """
        current = self._peer.current_registration(self.tool)
        if current is self.tool:
            return
        if self._pinned:
            raise failures.updated(current)
        if self.speculative and not self._limits.may_run_early(current.declaration):
            raise failures.changed(current)
        await check_arguments(current, self._arguments_json, self._limits, self._checks)
        self.tool = current

    async def _run_handler(self) -> None:
        """Sends the invocation, then the commit if there is one. Returns once the run has ended."""
        link, invocation = self.tool.link, self._invocation()
        with self._deadline(failures.SEND_TIMEOUT_S, failures.not_taken):
            await link.invoke(invocation)
        self.sent = True
        if self.ended is not None:
            return
        with self._deadline(self.tool.declaration.timeout_s, failures.timed_out):
            if not invocation.call_id:
                await self._committed.wait()
                with suppress(ServiceError):  # the process is gone, which ends the run
                    await link.commit(self.invocation_id, self.call_id)
            await self._over.wait()

    async def _tell_to_stop(self, reason: InvocationCancelReason) -> None:
        # If the process takes no frame, its stream deals with that; the run has ended in any case.
        with suppress(TimeoutError, ServiceError):
            async with within(self._clock, CANCEL_TIMEOUT_S):
                await self.tool.link.cancel(self.invocation_id, reason)

    @contextmanager
    def _deadline(
        self, seconds: float, why: Callable[[RegisteredTool], ServiceError]
    ) -> Generator[None]:
        """Ends the run if its block takes longer than `seconds` and no answer has come."""

        def expired() -> None:
            if not self._answering:
                self._give_up(InvocationCancelReason.TIMEOUT, why(self.tool))

        timer = self._clock.call_later(seconds, expired)
        try:
            yield
        finally:
            timer.cancel()

    def _give_up(self, reason: InvocationCancelReason, error: ServiceError) -> None:
        """Ends a run that has not ended, without its answer. A sent one is told to stop."""
        if self.ended is not None:
            return
        if self.sent:
            self._unwanted = reason
            self._peer.owe(self.invocation_id, self._answered_late)
        self._end(InvocationEnding.of_error(error))

    def _end(self, ending: InvocationEnding) -> None:
        assert self.ended is None
        del self._peer.runs[self.invocation_id]
        self.ended = ending
        self.ended_at = self._clock.now()
        self._over.set()
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()

    def _answered_late(self) -> None:
        for listener in self._late_listeners:
            listener()

    def _invocation(self) -> Invoke:
        return Invoke(
            invocation_id=self.invocation_id,
            execution_id=self.execution_id,
            call_id=self.call_id,
            prediction_id=self.prediction_id,
            turn_id=self._context.turn_id,
            conversation_id=self._context.conversation_id,
            tool_name=self.tool.name,
            tool_version=self.tool.declaration.version,
            arguments_json=self._arguments_json,
            timeout_s=self.tool.declaration.timeout_s,
            trace_context=self._context.trace_context,
        )
