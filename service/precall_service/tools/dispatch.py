"""From a call that the model made to the one way in which it ended.

Owns: every invocation in flight, its deadline, its place among the runs of its tool.
Never: which tools a turn sees, what the model is told, how frames travel.
Concurrency: one event loop; all state changes are synchronous. An invocation is in its peer's
    `running` exactly while its ending is wanted: whoever takes it out ends it, so it ends once.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from precall_service.domain.clock import Clock
from precall_service.domain.errors import Reason, ServiceError
from precall_service.domain.json import JsonError, parse_object
from precall_service.domain.messages import ToolCall
from precall_service.domain.turn import TraceContext
from precall_service.tools.answers import read_answer
from precall_service.tools.declarations import ToolLimits
from precall_service.tools.endings import InvocationEnding
from precall_service.tools.gate import Gate
from precall_service.tools.link import CancelReason, HandlerAnswer, HandlerLink, Invocation
from precall_service.tools.schema import MismatchError
from precall_service.tools.text import shorten
from precall_service.tools.timeout import within
from precall_service.tools.toolset import RegisteredTool

SEND_TIMEOUT_S = 10.0
"""How long a process may refuse to take an invocation before it counts as gone."""
CANCEL_TIMEOUT_S = 1.0
"""How long the end of a run may wait for the process to take the news."""
OWED_MAX = 256
"""Answers still to come from one process, of runs that are over: the oldest is forgotten first."""
PROGRESS_CHARS_MAX = 1024

ProgressListener = Callable[[str, float | None], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class InvocationContext:
    """For whom a handler runs."""

    turn_id: str
    conversation_id: str
    trace_context: TraceContext = field(default_factory=TraceContext)


@dataclass(slots=True, kw_only=True)
class _Run:
    """One invocation in flight. `unwanted` says why the handler must be told to stop."""

    invocation: Invocation
    tool: RegisteredTool
    on_progress: ProgressListener
    ending: asyncio.Future[InvocationEnding]
    unwanted: CancelReason | None = None

    @property
    def invocation_id(self) -> str:
        return self.invocation.invocation_id


class _Peer:
    """What is open between the service and one process that holds handlers."""

    def __init__(self) -> None:
        self.lost = False
        self.running: dict[str, _Run] = {}
        self.gates: dict[str, Gate] = {}
        self.owed: dict[str, None] = {}

    def end(self, run: _Run, ending: InvocationEnding) -> None:
        """Ends a run that is still wanted."""
        del self.running[run.invocation_id]
        # Done already when the coroutine that waits for it was cancelled a moment ago.
        if not run.ending.done():
            run.ending.set_result(ending)

    def give_up(self, run: _Run, reason: CancelReason, error: ServiceError) -> None:
        """Ends a run, if it is still wanted, with the handler's answer owed."""
        if run.invocation_id not in self.running:
            return
        run.unwanted = reason
        if len(self.owed) >= OWED_MAX:
            del self.owed[next(iter(self.owed))]
        self.owed[run.invocation_id] = None
        self.end(run, InvocationEnding.of_error(error))


class Dispatcher:
    """Runs handlers in other processes, one invocation a call."""

    def __init__(self, clock: Clock, limits: ToolLimits) -> None:
        self._clock = clock
        self._limits = limits
        # Forgotten with their links, which hold nothing of ours.
        self._peers: WeakKeyDictionary[HandlerLink, _Peer] = WeakKeyDictionary()

    @property
    def in_flight(self) -> int:
        """Invocations whose ending is still wanted."""
        return sum(len(peer.running) for peer in self._peers.values())

    async def run(
        self,
        *,
        call: ToolCall,
        tool: RegisteredTool,
        context: InvocationContext,
        on_progress: ProgressListener,
    ) -> InvocationEnding:
        """Answers the call: whatever goes wrong on the way is an ending.

        It takes at most the tool's timeout for a free place, SEND_TIMEOUT_S for the process to
        take it, the tool's timeout for the handler, and CANCEL_TIMEOUT_S to call it off.

        On cancel: the handler is told that the turn ended, for at most CANCEL_TIMEOUT_S; its
        answer is swallowed.
        """
        try:
            today = self._today(tool)
            self._check_arguments(today, call)
            async with self._place(today):
                # While it waited, the tool may have been updated or withdrawn.
                latest = self._today(tool)
                if latest is not today:
                    self._check_arguments(latest, call)
                return await self._invoke(latest, call, context, on_progress)
        except ServiceError as error:
            return InvocationEnding.of_error(error)

    def deliver(self, link: HandlerLink, invocation_id: str, answer: HandlerAnswer) -> None:
        """The handler's one answer. A late one, of a run that was called off, is swallowed once.

        Raises:
            ServiceError: INVOCATION_UNKNOWN, nothing of that id is open for this process; TOO_LARGE
                or RESULT_INVALID, the call ended with that error.
        """
        peer = self._peer(link)
        run = peer.running.get(invocation_id)
        if run is None:
            if invocation_id not in peer.owed:
                raise _unknown("invocation_result", invocation_id)
            del peer.owed[invocation_id]
            return
        try:
            ending = read_answer(run.tool, answer, self._limits)
        except ServiceError as error:
            peer.end(run, InvocationEnding.of_error(error))
            raise
        peer.end(run, ending)

    def progress(
        self, link: HandlerLink, invocation_id: str, message: str, fraction: float | None
    ) -> None:
        """Passes a sign of life on. That of a run that was called off goes nowhere.

        Raises:
            ServiceError: INVOCATION_UNKNOWN, nothing of that id is open for this process;
                FIELD_INVALID, the fraction is none.
        """
        peer = self._peer(link)
        run = peer.running.get(invocation_id)
        if run is None and invocation_id not in peer.owed:
            raise _unknown("invocation_progress", invocation_id)
        if fraction is not None and not 0 <= fraction <= 1:
            raise ServiceError(
                Reason.FIELD_INVALID,
                f"invocation_progress.fraction is {fraction:g}: use 0 to 1, or leave it unset",
                field="invocation_progress.fraction",
            )
        if run is not None and not run.ending.done():
            run.on_progress(shorten(message, PROGRESS_CHARS_MAX), fraction)

    def link_lost(self, link: HandlerLink) -> None:
        """The process is gone: its invocations end, and so do later ones, at once. Idempotent.

        Calls that wait for a place end as the runs before them make room.
        """
        peer = self._peer(link)
        peer.lost = True
        peer.owed.clear()
        for run in list(peer.running.values()):
            peer.end(run, InvocationEnding.of_error(_gone(run.tool, started=True)))

    def _peer(self, link: HandlerLink) -> _Peer:
        return self._peers.setdefault(link, _Peer())

    def _today(self, tool: RegisteredTool) -> RegisteredTool:
        today = tool.current()
        if today is None:
            raise ServiceError(
                Reason.TOOL_UNAVAILABLE,
                f"tool {tool.name!r} is no longer offered; go on without it",
                metadata={"tool_name": tool.name},
            )
        if self._peer(today.link).lost:
            raise _gone(today, started=False)
        return today

    def _check_arguments(self, tool: RegisteredTool, call: ToolCall) -> None:
        size = len(call.arguments_json.encode(errors="replace"))
        limit = self._limits.arguments_bytes_max
        if size > limit:
            raise ServiceError(
                Reason.TOO_LARGE,
                f"the arguments have {size} bytes, the limit is {limit}; pass less",
                metadata={"size": str(size), "limit": str(limit)},
            )
        try:
            tool.arguments.check(parse_object(call.arguments_json), root="arguments")
        except JsonError as error:
            raise _arguments_invalid(tool, f"arguments: not a JSON object: {error}") from None
        except MismatchError as error:
            raise _arguments_invalid(tool, str(error)) from None

    @asynccontextmanager
    async def _place(self, tool: RegisteredTool) -> AsyncGenerator[None]:
        """Holds one of the tool's places at its process. On cancel: it is given back."""
        gates = self._peer(tool.link).gates
        gate = gates.setdefault(tool.name, Gate())
        timeout_s = tool.declaration.timeout_s
        try:
            try:
                async with within(self._clock, timeout_s):
                    await gate.enter(tool.declaration.max_concurrency)
            except TimeoutError:
                raise ServiceError(
                    Reason.TOOL_TIMEOUT,
                    f"earlier calls kept tool {tool.name!r} busy for {timeout_s:g} s; this one did"
                    " not run",
                    metadata={"tool_name": tool.name, "limit": f"{timeout_s:g}"},
                ) from None
            try:
                yield
            finally:
                gate.leave()
        finally:
            if gate.idle:
                gates.pop(tool.name, None)

    async def _invoke(
        self,
        tool: RegisteredTool,
        call: ToolCall,
        context: InvocationContext,
        on_progress: ProgressListener,
    ) -> InvocationEnding:
        peer = self._peer(tool.link)
        run = _Run(
            invocation=_invocation(tool, call, context),
            tool=tool,
            on_progress=on_progress,
            ending=asyncio.get_running_loop().create_future(),
        )
        peer.running[run.invocation_id] = run
        try:
            await self._send(run)
        except BaseException:
            # Never sent: there is no handler to be told, and no answer to come.
            peer.running.pop(run.invocation_id, None)
            raise
        deadline = self._clock.call_later(
            tool.declaration.timeout_s,
            lambda: peer.give_up(run, CancelReason.TIMEOUT, _timeout(tool)),
        )
        try:
            return await run.ending
        except asyncio.CancelledError:
            peer.give_up(run, CancelReason.TURN_ENDED, _cancelled(tool))
            raise
        finally:
            deadline.cancel()
            if run.unwanted is not None and not peer.lost:
                await self._call_off(tool.link, run.invocation_id, run.unwanted)

    async def _send(self, run: _Run) -> None:
        try:
            async with within(self._clock, SEND_TIMEOUT_S):
                await run.tool.link.invoke(run.invocation)
        except TimeoutError:
            raise ServiceError(
                Reason.TOOL_UNAVAILABLE,
                f"the process that runs tool {run.tool.name!r} has taken nothing for"
                f" {SEND_TIMEOUT_S:g} s; the call did not run",
                metadata={"tool_name": run.tool.name},
            ) from None

    async def _call_off(self, link: HandlerLink, invocation_id: str, reason: CancelReason) -> None:
        # A process that takes nothing any more is its stream's affair: the run is over either way.
        with suppress(TimeoutError, ServiceError):
            async with within(self._clock, CANCEL_TIMEOUT_S):
                await link.cancel(invocation_id, reason)


def _invocation(tool: RegisteredTool, call: ToolCall, context: InvocationContext) -> Invocation:
    return Invocation(
        invocation_id=uuid.uuid4().hex,
        execution_id=uuid.uuid4().hex,
        call_id=call.call_id,
        turn_id=context.turn_id,
        conversation_id=context.conversation_id,
        tool_name=tool.name,
        tool_version=tool.declaration.version,
        arguments_json=call.arguments_json,
        timeout_s=tool.declaration.timeout_s,
        trace_context=context.trace_context,
    )


def _gone(tool: RegisteredTool, *, started: bool) -> ServiceError:
    doubt = _in_doubt(tool) if started else "; the call did not run"
    return ServiceError(
        Reason.TOOL_UNAVAILABLE,
        f"the process that runs tool {tool.name!r} is gone{doubt}",
        metadata={"tool_name": tool.name},
    )


def _timeout(tool: RegisteredTool) -> ServiceError:
    timeout_s = tool.declaration.timeout_s
    return ServiceError(
        Reason.TOOL_TIMEOUT,
        f"tool {tool.name!r} did not answer within {timeout_s:g} s and was told to stop"
        + _in_doubt(tool),
        metadata={"tool_name": tool.name, "limit": f"{timeout_s:g}"},
    )


def _cancelled(tool: RegisteredTool) -> ServiceError:
    return ServiceError(
        Reason.CANCELLED,
        f"the turn ended while tool {tool.name!r} ran" + _in_doubt(tool),
        metadata={"tool_name": tool.name},
    )


def _in_doubt(tool: RegisteredTool) -> str:
    return "" if tool.declaration.effects.read_only else "; whether it took effect is not known"


def _arguments_invalid(tool: RegisteredTool, message: str) -> ServiceError:
    return ServiceError(Reason.ARGUMENTS_INVALID, message, metadata={"tool_name": tool.name})


def _unknown(frame: str, invocation_id: str) -> ServiceError:
    return ServiceError(
        Reason.INVOCATION_UNKNOWN,
        f"no invocation {shorten(invocation_id, 80)!r} waits for this stream: it is finished, of"
        " another stream, or was never made; answer each Invoke once",
        field=f"{frame}.invocation_id",
    )
