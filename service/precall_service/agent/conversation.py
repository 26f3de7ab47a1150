"""A conversation: its transcript, its tools, and one turn after another.

Owns: the messages and tokens between turns, the running turn, the endings of recent turns, the
    order of events (through its outbox).
Never: encodes, or touches the stream. The transport feeds it what the client says and takes what
    the outbox holds.
Concurrency: `run` is one long-lived coroutine that runs the turns; every other method is called
    from the coroutine that reads the client.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import replace

from precall_service.agent import refusals
from precall_service.agent.context import TurnContext, TurnServices
from precall_service.agent.ended import EndedTurns, same_turn
from precall_service.agent.limits import AgentLimits
from precall_service.agent.outbox import Outbox
from precall_service.agent.transcript import Tail
from precall_service.agent.turn import Turn
from precall_service.domain.clock import Timer
from precall_service.domain.errors import Reason, ServiceError
from precall_service.domain.events import (
    CancelInvocation,
    InvocationCancelReason,
    InvocationCommitted,
    Invoke,
    ToolRegistration,
    ToolsRegistered,
    ToolsWithdrawn,
    TurnOutcome,
)
from precall_service.domain.messages import Transcript
from precall_service.domain.turn import ToolChoice, ToolChoiceMode, TurnSpec
from precall_service.engine.base import Feature
from precall_service.tools.declarations import ToolLimits, ToolProposal
from precall_service.tools.link import HandlerAnswer
from precall_service.tools.toolset import RegisteredTool, Toolset

log = logging.getLogger(__name__)


class Conversation:
    """One conversation and the way to its client's handlers (it is the link of inline tools)."""

    def __init__(
        self,
        *,
        conversation_id: str,
        tenant: str,
        agent_name: str,
        transcript: Transcript,
        services: TurnServices,
        limits: AgentLimits,
        tool_limits: ToolLimits,
    ) -> None:
        self.conversation_id = conversation_id
        self.tenant = tenant
        self.limits = limits
        self.outbox = Outbox(limits.events_max, first_sequence=1)
        self._agent_name = agent_name
        self._transcript = transcript
        self._tail: Tail | None = None
        self._services = services
        self._toolset = Toolset(self, tool_limits)
        self._turn: Turn | None = None
        self._ended = EndedTurns(limits.ended_turns_max)
        self._wake = asyncio.Event()
        self._draining = False
        self.error: ServiceError | None = None
        """The status that the stream ends with, if not OK."""
        self._expiry: Timer | None = None

    @property
    def who(self) -> str:
        """The conversation and its tenant, for the log."""
        return f"{self.conversation_id} (tenant {self.tenant})"

    # What the client says.

    def register(
        self, proposals: Sequence[ToolProposal], *, path: str
    ) -> tuple[ToolRegistration, ...]:
        """Declares or updates inline tools; a running turn keeps those that it began with.

        `path` is where they stand in the client's frame, for errors.
        """
        refused = self._no_tool_calls()
        if refused is not None:
            return tuple(
                ToolRegistration(name=p.name, version="", error=refused) for p in proposals
            )
        return tuple(self._toolset.register(proposals, path=path))

    async def register_tools(self, frame: int, proposals: Sequence[ToolProposal]) -> None:
        """Registers, and answers with one ToolsRegistered."""
        registrations = self.register(proposals, path="register_tools.tools")
        await self.outbox.put(ToolsRegistered(frame, registrations))

    async def withdraw_tools(self, frame: int, names: Sequence[str]) -> None:
        """Withdraws, and answers with one ToolsWithdrawn."""
        withdrawn, unknown = self._toolset.withdraw(names)
        await self.outbox.put(ToolsWithdrawn(frame, tuple(withdrawn), tuple(unknown)))

    async def start_turn(self, spec: TurnSpec) -> None:
        """Starts a turn; a repetition of one starts nothing.

        Raises:
            ServiceError: TURN_RUNNING, TURN_ID_REUSED, LIMIT_REACHED, NOT_SERVED,
                TOOL_CHOICE_INVALID.
        """
        if await self._is_repetition(spec):
            return
        if self._draining:
            raise self.error or ServiceError(Reason.CANCELLED, "the conversation is closing")
        if self._turn is not None:
            raise refusals.turn_running(self._turn.spec.turn_id)
        messages, limit = len(self._transcript.messages), self.limits.messages_max
        if messages >= limit:
            raise refusals.too_many_messages(messages, limit)
        tools = self._tools_for(spec.generation.tool_choice)
        declarations = tuple(tool.declaration for tool in tools)
        self._turn = Turn(
            spec=spec,
            context=TurnContext(
                conversation_id=self.conversation_id,
                tenant=self.tenant,
                who=self.who,
                agent_name=self._agent_name,
                model=self._services.model,
                transcript=replace(self._transcript, tools=declarations),
                tail=self._tail,
                tools=tools,
            ),
            services=self._services,
            emit=lambda event: self.outbox.put(event, spec.turn_id),
            offer=lambda event: self.outbox.offer(event, spec.turn_id),
        )
        self._wake.set()

    def cancel_turn(self, turn_id: str) -> None:
        """Ends the running turn.

        Raises:
            ServiceError: TURN_UNKNOWN, unless that turn has just ended.
        """
        turn = self._turn
        if turn is None or (turn_id and turn.spec.turn_id != turn_id):
            if turn_id in self._ended:
                return  # it ended while the frame was under way
            raise refusals.turn_unknown(turn_id)
        turn.cancel(ServiceError(Reason.CANCELLED, "the client cancelled the turn"))

    def deliver(self, invocation_id: str, answer: HandlerAnswer) -> None:
        """The ending of an invocation of one of this client's tools.

        Raises:
            ServiceError: INVOCATION_UNKNOWN, or what is wrong with the result.
        """
        self._services.dispatcher.deliver(self, invocation_id, answer)

    def progress(self, invocation_id: str, message: str, fraction: float | None) -> None:
        """A sign of life of such an invocation.

        Raises:
            ServiceError: INVOCATION_UNKNOWN.
        """
        self._services.dispatcher.progress(self, invocation_id, message, fraction)

    # The way to the client's handlers (tools.link.HandlerLink).

    async def invoke(self, invocation: Invoke) -> None:
        """Asks the client to run a handler.

        Raises:
            ServiceError: TOOL_UNAVAILABLE, the client is gone.
        """
        self._check_linked()
        await self.outbox.put(invocation, invocation.turn_id)

    async def commit(self, invocation_id: str, call_id: str) -> None:
        """Tells the client that a speculative run now answers a call.

        Raises:
            ServiceError: TOOL_UNAVAILABLE, the client is gone.
        """
        self._check_linked()
        await self.outbox.put(InvocationCommitted(invocation_id, call_id))

    async def cancel(self, invocation_id: str, reason: InvocationCancelReason) -> None:
        """Tells the client that a run is no longer wanted.

        Raises:
            ServiceError: TOOL_UNAVAILABLE, the client is gone.
        """
        self._check_linked()
        await self.outbox.put(CancelInvocation(invocation_id, reason))

    # Its life.

    async def run(self) -> None:
        """Runs turns until the conversation is drained, then closes the outbox.

        On cancel (the client is gone): the running turn is cancelled and nothing more is told.
        """
        try:
            while True:
                if self._turn is not None:
                    await self._run_turn(self._turn)
                elif self._draining:
                    return
                else:
                    self._wake.clear()
                    await self._wake.wait()
        finally:
            self._services.dispatcher.link_lost(self)
            self._unwatch()
            self.outbox.close()

    def drain(self, error: ServiceError | None = None) -> None:
        """No more turns: once the running one has ended the stream ends, with this status."""
        self._draining = True
        self.error = self.error or error
        self._wake.set()

    def hang_up(self) -> None:
        """The client says nothing more: the running turn is finished without its tools."""
        self._services.dispatcher.link_lost(self)
        self.drain()

    def end(
        self, error: ServiceError, outcome: TurnOutcome, *, status: ServiceError | None = None
    ) -> None:
        """The running turn ends at once, for this reason; then the stream, with `status`."""
        if self._turn is not None:
            self._turn.cancel(error, outcome)
        self.drain(status)

    def renew(self) -> None:
        """Something happened: the conversation expires a whole idle time from now."""
        self._unwatch()
        if self.outbox.closed:
            return
        limit_s = self.limits.idle_expiry_s
        self._expiry = self._services.clock.call_later(limit_s, self._expire)

    def _expire(self) -> None:
        limit_s = self.limits.idle_expiry_s
        if self._turn is not None:
            self.renew()
            return
        self.drain(refusals.conversation_expired(limit_s))

    async def _run_turn(self, turn: Turn) -> None:
        ending = await turn.run()
        completed = ending.completed
        if completed.outcome is TurnOutcome.FAILED and completed.error is not None:
            why = completed.error.reason.name, completed.error.message
            log.info("turn %r of %s failed: %s: %s", turn.spec.turn_id, self.who, *why)
        self._transcript = replace(
            self._transcript, messages=self._transcript.messages + ending.messages
        )
        self._tail = ending.tail
        self._turn = None
        self.renew()
        if ending.begun:  # one that never began has done nothing, and may be sent again as it is
            self._ended.add(turn.spec, completed)

    async def _is_repetition(self, spec: TurnSpec) -> bool:
        """Whether the turn is known; an ended one is answered by its ending again."""
        running = self._turn
        if running is not None and running.spec.turn_id == spec.turn_id:
            if not same_turn(running.spec, spec):
                raise refusals.turn_id_reused(spec.turn_id)
            return True
        completed = self._ended.ending_of(spec)
        if completed is not None:
            await self.outbox.put(completed, spec.turn_id)
        return completed is not None

    def _check_linked(self) -> None:
        if self.outbox.closed:
            raise ServiceError(Reason.TOOL_UNAVAILABLE, "the client that runs the tool is gone")

    def _tools_for(self, choice: ToolChoice) -> tuple[RegisteredTool, ...]:
        """The tools that a turn with this choice is offered.

        Raises:
            ServiceError: NOT_SERVED, TOOL_CHOICE_INVALID.
        """
        tools = self._toolset.snapshot()
        if tools and (refused := self._no_tool_calls()) is not None:
            raise refused  # they were registered before the engine was there to ask
        names = [tool.name for tool in tools]
        if choice.mode is ToolChoiceMode.NAMED and choice.tool_name not in names:
            raise refusals.named_tool_unknown(choice.tool_name, names)
        if choice.mode is ToolChoiceMode.REQUIRED and not names:
            raise refusals.no_tool_to_require()
        return tools

    def _no_tool_calls(self) -> ServiceError | None:
        """Why tools are of no use with the served model; None if they are, or not known yet."""
        engine = self._services.engines.info
        if engine is None or Feature.TOOL_CALLS in engine.features:
            return None
        return refusals.no_tool_calls(engine.model)

    def _unwatch(self) -> None:
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None
