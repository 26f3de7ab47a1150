"""The runs of handlers in other processes: launched here, answered from there.

Owns: the tasks of all runs, and which run an answer is for.
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
from precall_service.domain.json import JsonObject
from precall_service.tools.arguments import check_arguments
from precall_service.tools.declarations import ToolLimits
from precall_service.tools.link import CancelReason, HandlerAnswer, HandlerLink
from precall_service.tools.run import InvocationContext, Peer, Run
from precall_service.tools.text import shorten
from precall_service.tools.toolset import RegisteredTool


class Dispatcher:
    """Launches runs and brings them what their processes say. Use it as `async with`."""

    def __init__(self, clock: Clock, limits: ToolLimits) -> None:
        self.limits = limits
        self._clock = clock
        self._group = asyncio.TaskGroup()
        self._closing = False
        self._tasks: set[asyncio.Task[None]] = set()
        # Forgotten with their links, to which only open runs of theirs refer.
        self._peers: WeakKeyDictionary[HandlerLink, Peer] = WeakKeyDictionary()

    async def __aenter__(self) -> Self:
        """Runs can be launched from now on."""
        await self._group.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Discards all runs. Returns once their processes know, CANCEL_TIMEOUT_S later at most.

        After an error or a cancel in the block: waits for no process, as if all were gone.
        """
        self._closing = True
        for peer in list(self._peers.values()):
            if error is not None:
                peer.lose()
            for run in list(peer.runs.values()):
                run.discard(CancelReason.DRAINING)
        if error is not None:
            for task in self._tasks:
                task.cancel()
        # Kept from the group, which would wrap the error of the block.
        await self._group.__aexit__(None, None, None)

    @property
    def in_flight(self) -> int:
        """Runs of which something is left: no ending yet, or a process that must be told of it."""
        return len(self._tasks)

    def current(self, tool: RegisteredTool) -> RegisteredTool:
        """The tool as it is registered now; a run is launched with this registration.

        Raises:
            ServiceError: TOOL_UNAVAILABLE, it was withdrawn or its process is gone.
        """
        return self._peer(tool.link).current_registration(tool)

    def check_arguments(self, tool: RegisteredTool, arguments_json: str) -> JsonObject:
        """The arguments of a call of the tool, which a run may be launched with.

        Raises:
            ServiceError: TOO_LARGE or ARGUMENTS_INVALID.
        """
        return check_arguments(tool, arguments_json, self.limits)

    def launch(
        self,
        *,
        tool: RegisteredTool,
        arguments_json: str,
        context: InvocationContext,
        call_id: str = "",
        prediction_id: str = "",
    ) -> Run:
        """Starts a run of a current registration with arguments that have passed its check.

        Without a `call_id` the run is speculative: it waits behind committed runs, and is to be
        committed to a call or discarded later. Whatever goes wrong becomes the ending of the run.
        """
        run = Run(
            tool=tool,
            arguments_json=arguments_json,
            context=context,
            call_id=call_id,
            prediction_id=prediction_id,
            peer=self._peer(tool.link),
            clock=self._clock,
            limits=self.limits,
        )
        if self._closing:
            run.discard(CancelReason.DRAINING)
        else:
            task = run.start(self._group)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return run

    def deliver(self, link: HandlerLink, invocation_id: str, answer: HandlerAnswer) -> None:
        """Ends a run with its handler's answer. The late answer of a run is swallowed, once.

        Raises:
            ServiceError: INVOCATION_UNKNOWN, no run of that id is open for this process; TOO_LARGE,
                RESULT_INVALID or INTERNAL, the run ended with that error.
        """
        peer = self._peer(link)
        run = peer.runs.get(invocation_id)
        if run is not None:
            run.take_answer(answer)
        elif invocation_id in peer.owed:
            del peer.owed[invocation_id]
        else:
            raise _unknown("invocation_result", invocation_id)

    def progress(
        self, link: HandlerLink, invocation_id: str, message: str, fraction: float | None
    ) -> None:
        """Brings a run a sign of life. One of a run that has ended without an answer is dropped.

        Raises:
            ServiceError: INVOCATION_UNKNOWN, no run of that id is open for this process;
                FIELD_INVALID, the fraction is not one.
        """
        peer = self._peer(link)
        run = peer.runs.get(invocation_id)
        if run is None and invocation_id not in peer.owed:
            raise _unknown("invocation_progress", invocation_id)
        if fraction is not None and not 0 <= fraction <= 1:
            raise ServiceError(
                Reason.FIELD_INVALID,
                f"invocation_progress.fraction is {fraction:g}: use 0 to 1, or leave it unset",
                field="invocation_progress.fraction",
            )
        if run is not None:
            run.take_progress(message, fraction)

    def link_lost(self, link: HandlerLink) -> None:
        """Ends all runs of a process that is gone; later ones end as soon as they start."""
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
