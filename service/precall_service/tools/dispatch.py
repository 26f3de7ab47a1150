"""Launches runs of handlers in other processes, and gives each run what its process answers.

Owns: the tasks of all runs, and the state of each process.
Never: which tools a turn sees, what the model is told, how frames travel.
Concurrency: one event loop; all state changes are synchronous. The tasks are in a TaskGroup that
    lives as long as the dispatcher's `async with` block.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self
from weakref import WeakKeyDictionary

from precall_service.domain.clock import Clock
from precall_service.domain.errors import Reason, ServiceError
from precall_service.domain.events import InvocationCancelReason
from precall_service.domain.json import JsonObject
from precall_service.tools.answers import read_answer
from precall_service.tools.arguments import check_arguments, check_arguments_at_once
from precall_service.tools.checks import Checks
from precall_service.tools.declarations import ToolLimits
from precall_service.tools.link import HandlerAnswer, HandlerLink, HandlerResult
from precall_service.tools.peer import Peer
from precall_service.tools.run import InvocationContext, Run
from precall_service.tools.schema_store import SchemaStore
from precall_service.tools.text import shorten
from precall_service.tools.toolset import RegisteredTool, Toolset


class Dispatcher:
    """Launches runs and gives them their answers, inside its `async with` block."""

    def __init__(self, clock: Clock, limits: ToolLimits) -> None:
        self.limits = limits
        self._clock = clock
        self._checks = Checks()
        self._schemas = SchemaStore(limits)
        self._group = asyncio.TaskGroup()
        self._closing = False
        self._tasks: set[asyncio.Task[None]] = set()
        # An entry goes with its link, to which only open runs of the entry refer.
        self._peers: WeakKeyDictionary[HandlerLink, Peer] = WeakKeyDictionary()

    async def __aenter__(self) -> Self:
        """Runs can be launched from here to the end of the block."""
        await self._group.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Discards all runs, and tells their processes within CANCEL_TIMEOUT_S.

        After an error or a cancel in the block, no process is told, as if all were gone.
        """
        self._closing = True
        for peer in list(self._peers.values()):
            if error is not None:
                peer.lose()
            for run in list(peer.runs.values()):
                run.discard(InvocationCancelReason.DRAINING)
        if error is not None:
            for task in self._tasks:
                task.cancel()
        try:
            # Without the error of the block, which the group would wrap.
            await self._group.__aexit__(None, None, None)
        finally:
            self._schemas.close()
            await self._checks.close()

    @property
    def in_flight(self) -> int:
        """The number of runs that have not ended, or whose process must still be told to stop."""
        return len(self._tasks)

    @property
    def schemas_bytes(self) -> dict[str, int]:
        """The memory of the schemas of tools in use, by tenant, as it is estimated."""
        return self._schemas.held_bytes

    def toolset(self, link: HandlerLink, *, tenant: str) -> Toolset:
        """Returns an empty set of tools, for the handlers of one process."""
        return Toolset(link, self.limits, self._schemas, tenant=tenant)

    def current(self, tool: RegisteredTool) -> RegisteredTool:
        """Returns the current registration of a tool, with which its runs are launched.

        Raises:
            ServiceError: TOOL_UNAVAILABLE, the tool was withdrawn or its process is gone.
        """
        return self._peer(tool.link).current_registration(tool)

    async def check_arguments(self, tool: RegisteredTool, arguments_json: str) -> JsonObject:
        """Returns the arguments of a call if they fit the tool.

        Raises:
            ServiceError: TOO_LARGE or ARGUMENTS_INVALID.
        On cancel: the check is given up.
        """
        return await check_arguments(tool, arguments_json, self.limits, self._checks)

    def check_arguments_at_once(self, tool: RegisteredTool, arguments_json: str) -> JsonObject:
        """Returns the arguments of a predicted call if they fit the tool.

        Raises:
            ServiceError: TOO_LARGE, also if they take long to check; or ARGUMENTS_INVALID.
        """
        return check_arguments_at_once(tool, arguments_json, self.limits, self._checks)

    async def check_result(self, tool: RegisteredTool, result_json: str, content: str) -> None:
        """Checks a result that did not come from a handler in the same way as one that did.

        Raises:
            ServiceError: TOO_LARGE or RESULT_INVALID.
        On cancel: the check is given up.
        """
        await read_answer(tool, HandlerResult(result_json, content), self.limits, self._checks)

    def launch(
        self,
        *,
        tool: RegisteredTool,
        arguments_json: str,
        context: InvocationContext,
        call_id: str = "",
        prediction_id: str = "",
        pinned: bool = False,
    ) -> Run:
        """Starts a run. `tool` is a current registration, which the arguments fit.

        Without a `call_id` the run is speculative: it waits behind committed runs, and its owner
        commits it to a call or discards it later. It is evicted if a committed run needs its slot.
        If the tool is updated before the run has its slot, a pinned run ends with TOOL_UNAVAILABLE,
        and any other run uses the update. Every failure becomes the ending of the run.

        Raises:
            ValueError: a defect of the caller: the tool's effects do not allow a speculative run.
        """
        if not call_id and not self.limits.may_run_early(tool.declaration):
            raise ValueError(f"tool {tool.name!r} may not run early")
        run = Run(
            tool=tool,
            arguments_json=arguments_json,
            context=context,
            call_id=call_id,
            prediction_id=prediction_id,
            pinned=pinned,
            peer=self._peer(tool.link),
            clock=self._clock,
            limits=self.limits,
            checks=self._checks,
        )
        if self._closing:
            run.discard(InvocationCancelReason.DRAINING)
        else:
            task = run.start(self._group)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return run

    async def deliver(self, link: HandlerLink, invocation_id: str, answer: HandlerAnswer) -> None:
        """Ends a run with its handler's answer. One late answer of each ended run is ignored.

        A large result is checked in another process, for which others may wait before it.

        Raises:
            ServiceError: INVOCATION_UNKNOWN, no run of that id is open for this process; TOO_LARGE,
                RESULT_INVALID or INTERNAL, the run ended with that error.
        On cancel: the check is given up, and the run goes on without the answer.
        """
        peer = self._peer(link)
        run = peer.runs.get(invocation_id)
        if run is not None:
            await run.take_answer(answer)
        elif invocation_id in peer.owed:
            peer.owed.pop(invocation_id)()
        else:
            raise _unknown("invocation_result", invocation_id)

    def progress(
        self, link: HandlerLink, invocation_id: str, message: str, fraction: float | None
    ) -> None:
        """Gives a run a progress report. One of a run that ended without its answer is ignored.

        Raises:
            ServiceError: INVOCATION_UNKNOWN, no run of that id is open for this process.
        """
        peer = self._peer(link)
        run = peer.runs.get(invocation_id)
        if run is None and invocation_id not in peer.owed:
            raise _unknown("invocation_progress", invocation_id)
        if run is not None:
            run.take_progress(message, fraction)

    def link_lost(self, link: HandlerLink) -> None:
        """Ends all runs of a process that is gone. Later ones are never sent. Idempotent."""
        self._peer(link).lose()

    def _peer(self, link: HandlerLink) -> Peer:
        return self._peers.setdefault(link, Peer())


def _unknown(frame: str, invocation_id: str) -> ServiceError:
    return ServiceError(
        Reason.INVOCATION_UNKNOWN,
        f"no invocation {shorten(invocation_id, 80)!r} waits for this stream: it is finished, of"
        " another stream, or was never made; answer each Invoke once",
        field=f"{frame}.invocation_id",
    )
