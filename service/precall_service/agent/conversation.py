"""A conversation: its transcript, its tools, and one turn after another.

Owns: the messages and tokens between turns, the running turn, the endings of recent turns, the
    order of events (through its outbox).
Never: encodes frames or touches the stream. The transport passes on the client's frames as values,
    and writes the events of the outbox.
Concurrency: one event loop. `run` is one long-lived coroutine that runs the turns. Meanwhile the
    transport calls the methods for frames, and the dispatcher those of the handler link.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

from precall_service.agent import refusals
from precall_service.agent.context import TurnContext, TurnServices
from precall_service.agent.ended import EndedTurns, same_turn
from precall_service.agent.held_bytes import (
    Holding,
    Part,
    messages_size,
    text_size,
    tool_size,
    tools_size,
)
from precall_service.agent.limits import AgentLimits
from precall_service.agent.outbox import Outbox
from precall_service.agent.registration_answers import RegistrationAnswers
from precall_service.agent.transcript import Tail
from precall_service.agent.turn import Turn
from precall_service.agent.wake import Wake
from precall_service.domain.clock import Timer
from precall_service.domain.endings import UNANSWERED
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
from precall_service.domain.speculation import SpeculationSettings
from precall_service.domain.turn import ToolChoice, ToolChoiceMode, TurnSpec
from precall_service.engine.base import Feature
from precall_service.tools.declarations import ToolProposal
from precall_service.tools.link import HandlerAnswer
from precall_service.tools.toolset import RegisteredTool, Registration

log = logging.getLogger(__name__)


class Conversation:
    """One conversation; it is also the link to the handlers of its client's inline tools."""

    def __init__(
        self,
        *,
        conversation_id: str,
        tenant: str,
        agent_name: str,
        transcript: Transcript,
        speculation: SpeculationSettings,
        services: TurnServices,
        limits: AgentLimits,
        holding: Holding,
        refused: Callable[[Reason], None],
    ) -> None:
        """`refused` is told why a frame is refused, or a turn fails."""
        self.conversation_id = conversation_id
        self.tenant = tenant
        self.limits = limits
        self._holding = holding
        self.refused = refused
        self.outbox = Outbox(
            limits.events_max,
            limits.events_bytes_max,
            first_sequence=1,
            on_bytes=lambda size: holding.set(Part.EVENTS, size),
        )
        self.speculation = speculation
        self._agent_name = agent_name
        self._transcript = transcript
        self._tail: Tail | None = None
        self._services = services
        self._toolset = services.dispatcher.toolset(self, tenant=tenant)
        self._tool_bytes: dict[str, int] = {}
        self._turn: Turn | None = None
        self._ended = EndedTurns(limits.ended_turns_max)
        self._tasks: asyncio.TaskGroup | None = None
        self._answers: RegistrationAnswers | None = None
        self._wake = Wake()
        self._draining = False
        self.error: ServiceError | None = None
        """The error that the stream ends with; None for OK."""
        self._expiry: Timer | None = None

    @property
    def who(self) -> str:
        """Names the conversation and its tenant, for the log."""
        return f"{self.conversation_id} (tenant {self.tenant})"

    # Frames of the client.

    async def register(self, proposals: Sequence[ToolProposal], *, path: str) -> list[Registration]:
        """Registers or updates inline tools; a running turn keeps offering those it began with.

        `path` is the field of the client's frame that holds the tools, for errors.
        """
        try:
            if (refused := self._no_tool_calls()) is not None:
                raise refused
            self._holding.check(tools_size(proposals), path)
        except ServiceError as error:
            return [Registration(ToolRegistration(name=p.name, error=error)) for p in proposals]
        registrations = await self._toolset.register(proposals, path=path)
        for proposal, registration in zip(proposals, registrations, strict=True):
            if registration.declaration is not None:
                self._tool_bytes[proposal.name] = tool_size(proposal)
        self._holding.set(Part.TOOLS, sum(self._tool_bytes.values()))
        return registrations

    async def judged(self, registrations: Sequence[Registration]) -> tuple[ToolRegistration, ...]:
        """Returns the outcomes, with what the engine does not hold calls of the tools to.

        An engine that is not ready holds nobody up: it judges the tools when a turn uses them.
        """
        tools = [each.declaration for each in registrations if each.declaration is not None]
        engine = self._services.engines.running
        if engine is None:
            return tuple(each.outcome for each in registrations)
        loosened = iter(await engine.judge(tools, self.tenant))
        return tuple(
            each.outcome
            if each.declaration is None
            else replace(each.outcome, loosened=tuple(next(loosened)))
            for each in registrations
        )

    async def register_tools(self, frame: int, proposals: Sequence[ToolProposal]) -> None:
        """Registers tools while `run` runs, which answers with one ToolsRegistered for the frame.

        The client's next frames need not wait for that: they may be results of a running turn.
        """
        registrations = await self.register(proposals, path="register_tools.tools")
        if self._tasks is None:
            return  # the conversation has ended
        if self._answers is None:  # most conversations need none
            self._answers = RegistrationAnswers(self._tasks, self._answer)
        await self._answers.add(frame, registrations)

    async def withdraw_tools(self, frame: int, names: Sequence[str]) -> None:
        """Withdraws tools, and answers with one ToolsWithdrawn."""
        withdrawn, unknown = self._toolset.withdraw(names)
        for name in withdrawn:
            self._tool_bytes.pop(name, None)
        self._holding.set(Part.TOOLS, sum(self._tool_bytes.values()))
        await self.outbox.put(ToolsWithdrawn(frame, tuple(withdrawn), tuple(unknown)))

    async def start_turn(self, spec: TurnSpec) -> None:
        """Starts a turn, unless it repeats a turn that is running or has ended.

        If that turn has ended, its ending is sent again.

        Raises:
            ServiceError: TURN_RUNNING, TURN_ID_REUSED, LIMIT_REACHED, OVERLOADED, NOT_SERVED or
                TOOL_CHOICE_INVALID; or, while the conversation drains, the error that it ends with.
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
        self._holding.check(text_size(spec.text), "start_turn.content")
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
                speculation=self.speculation,
                holding=self._holding,
            ),
            services=self._services,
            emit=lambda event: self.outbox.put(event, spec.turn_id),
            offer=lambda event: self.outbox.offer(event, spec.turn_id),
            push=lambda event: self.outbox.push(event, spec.turn_id),
        )
        self._wake.set()

    def cancel_turn(self, turn_id: str) -> None:
        """Cancels the running turn; `turn_id` must name it or be empty.

        Does nothing if `turn_id` names a turn that has recently ended.

        Raises:
            ServiceError: TURN_UNKNOWN if there is no such turn.
        """
        turn = self._turn
        if turn is None or (turn_id and turn.spec.turn_id != turn_id):
            if turn_id in self._ended:
                return  # it ended while the frame was in transit
            raise refusals.turn_unknown(turn_id)
        turn.cancel(ServiceError(Reason.CANCELLED, "the client cancelled the turn"))

    async def deliver(self, invocation_id: str, answer: HandlerAnswer) -> None:
        """Ends an invocation of one of this client's tools with its handler's answer.

        Raises:
            ServiceError: INVOCATION_UNKNOWN; or the error that an invalid result ends the run with.
        On cancel: the check of the result is given up.
        """
        await self._services.dispatcher.deliver(self, invocation_id, answer)

    def progress(self, invocation_id: str, message: str, fraction: float | None) -> None:
        """Passes on the progress of an invocation of one of this client's tools.

        Raises:
            ServiceError: INVOCATION_UNKNOWN.
        """
        self._services.dispatcher.progress(self, invocation_id, message, fraction)

    # The link to the client's handlers (tools.link.HandlerLink).

    async def invoke(self, invocation: Invoke) -> None:
        """Asks the client to run a handler.

        Raises:
            ServiceError: TOOL_UNAVAILABLE if the client is gone.
        """
        if not await self.outbox.put(invocation, invocation.turn_id):
            raise refusals.client_gone()

    async def commit(self, invocation_id: str, call_id: str) -> None:
        """Tells the client that a speculative run now answers a call.

        Raises:
            ServiceError: TOOL_UNAVAILABLE if the client is gone.
        """
        if not await self.outbox.put(InvocationCommitted(invocation_id, call_id)):
            raise refusals.client_gone()

    async def cancel(self, invocation_id: str, reason: InvocationCancelReason) -> None:
        """Tells the client that a run is no longer needed.

        Raises:
            ServiceError: TOOL_UNAVAILABLE if the client is gone.
        """
        # A full outbox must not lose it: the handler would go on. There is one for each Invoke.
        if not self.outbox.push(CancelInvocation(invocation_id, reason)):
            raise refusals.client_gone()

    # Lifecycle.

    def close(self) -> None:
        """Lets go of the tools, which refer to it. So it is freed without a garbage collection."""
        self._toolset.close()

    async def run(self) -> None:
        """Runs turns until the conversation is drained, then closes the outbox.

        On cancel (the client is gone): the running turn is cancelled and no more events are sent.
        """
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            try:
                await self._run_turns()
                if self._answers is not None:
                    await self._answers.join()
            finally:
                self._services.dispatcher.link_lost(self)
                self._cancel_expiry()
                self.outbox.close()
                if self._answers is not None:
                    self._answers.close()
                self._tasks = self._answers = None

    async def _run_turns(self) -> None:
        while self._turn is not None or not self._draining:
            if self._turn is not None:
                await self._run_turn(self._turn)
            else:
                await self._wake.wait()

    async def _answer(self, frame: int, registrations: Sequence[Registration]) -> None:
        await self.outbox.put(ToolsRegistered(frame, await self.judged(registrations)))

    def drain(self, error: ServiceError | None = None) -> None:
        """Accepts no more turns, and ends the stream with `error` once the running turn has ended.

        None means OK. If this is called again, the first error counts.
        """
        self._draining = True
        self.error = self.error or error
        self._wake.set()

    def hang_up(self) -> None:
        """Handles a half-close: the running turn finishes without the client's tools."""
        self._services.dispatcher.link_lost(self)
        self.drain()

    def end(
        self, error: ServiceError, outcome: TurnOutcome, *, status: ServiceError | None = None
    ) -> None:
        """Ends the running turn immediately with `error`, then the stream with `status`."""
        if self._turn is not None:
            self._turn.cancel(error, outcome)
        self.drain(status)

    def renew(self) -> None:
        """Starts the idle time anew."""
        self._cancel_expiry()
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
        if completed.outcome in UNANSWERED and completed.error is not None:
            log.info("turn %r of %s failed: %s", turn.spec.turn_id, self.who, completed.error.label)
            self.refused(completed.error.reason)
        self._transcript = replace(
            self._transcript, messages=self._transcript.messages + ending.messages
        )
        self._tail = ending.tail
        self._turn = None
        self._holding.add(Part.TRANSCRIPT, messages_size(ending.messages))
        self._holding.set(Part.TURN, 0)
        self._holding.set(Part.TOKENS, 0 if ending.tail is None else ending.tail.size)
        self.renew()
        # One that failed before its first step did nothing: the client may send it again.
        if ending.begun or completed.outcome is not TurnOutcome.FAILED:
            self._ended.add(turn.spec, completed)
            self._holding.set(Part.ENDINGS, self._ended.size)

    async def _is_repetition(self, spec: TurnSpec) -> bool:
        """Returns whether the turn is running or has ended; if ended, sends its ending again."""
        running = self._turn
        if running is not None and running.spec.turn_id == spec.turn_id:
            if not same_turn(running.spec, spec):
                raise refusals.turn_id_reused(spec.turn_id)
            return True
        completed = self._ended.ending_of(spec)
        if completed is not None:
            await self.outbox.put(completed, spec.turn_id)
        return completed is not None

    def _tools_for(self, choice: ToolChoice) -> tuple[RegisteredTool, ...]:
        """Returns the tools that a turn with this choice offers the model.

        Raises:
            ServiceError: NOT_SERVED or TOOL_CHOICE_INVALID.
        """
        tools = self._toolset.snapshot()
        if tools and (refused := self._no_tool_calls()) is not None:
            raise refused  # the tools were registered before the engine had started
        names = [tool.name for tool in tools]
        if choice.mode is ToolChoiceMode.NAMED and choice.tool_name not in names:
            raise refusals.named_tool_unknown(choice.tool_name, names)
        if choice.mode is ToolChoiceMode.REQUIRED and not names:
            raise refusals.no_tool_to_require()
        return tools

    def _no_tool_calls(self) -> ServiceError | None:
        """Returns the error if the model cannot call tools; None if it can, or is not known yet."""
        engine = self._services.engines.info
        if engine is None or Feature.TOOL_CALLS in engine.features:
            return None
        return refusals.no_tool_calls(engine)

    def _cancel_expiry(self) -> None:
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None
