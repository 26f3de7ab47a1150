"""Conversations on a scripted engine, seen from the side of their clients."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager
from dataclasses import replace
from typing import TypeVar

from precall_service.admission import (
    Admission,
    AdmissionLimits,
    Capacity,
    FairStage,
    GrowthRecord,
)
from precall_service.agent.cached_calls import CachedCalls
from precall_service.agent.capacity import follow_engine
from precall_service.agent.context import TurnServices
from precall_service.agent.conversation import Conversation
from precall_service.agent.conversations import Conversations
from precall_service.agent.limits import AgentLimits
from precall_service.agent.outbox import NumberedEvent
from precall_service.agent.speculation import Speculation
from precall_service.cache.cache import ToolCache
from precall_service.cache.limits import CacheLimits
from precall_service.cache.memory import MemoryStore
from precall_service.domain.events import ConversationEvent, GoAway, Invoke, TurnCompleted
from precall_service.domain.json import JsonObject
from precall_service.domain.messages import Message, Transcript
from precall_service.domain.speculation import SpeculationRequest
from precall_service.domain.turn import GenerationSettings, TurnLimits, TurnSpec
from precall_service.engine.supervisor import EngineSupervisor, RestartPolicy
from precall_service.speculation.base import Predictor
from precall_service.speculation.limits import SpeculationLimits
from precall_service.tools.declarations import ToolProposal, declare
from precall_service.tools.dispatch import Dispatcher
from precall_service.tools.link import HandlerAnswer, HandlerResult
from precall_tracing.turns import Tracer, default_tracer
from tests.support.client_events import check_order, of
from tests.support.clock import ManualClock, settle
from tests.support.scripted_engine import INFO, ScriptedEngine, ScriptedFactory
from tests.support.scripts import Script, Step
from tests.support.tools import CITY_SCHEMA, tool_limits

T = TypeVar("T")

LIMITS = TurnLimits(max_steps=8, max_turn_tokens=2000, max_duration_s=60.0)
HOLD_S = 5.0
WITH_EVENTS = SpeculationRequest(send_events=True)
WEATHER = ToolProposal(name="weather", input_schema_json=CITY_SCHEMA, timeout_s=20.0)
TIME = ToolProposal(name="time", timeout_s=20.0)
ROME = ("weather", '{"city":"Rome"}')
OSLO = ("weather", '{"city":"Oslo"}')

Handler = Callable[[Invoke], HandlerAnswer | None]
"""Answers an invocation at once; None leaves the answer to the test."""


def agent_limits(
    *,
    conversations_max: int = 8,
    conversations_per_tenant_max: int = 1000,
    bytes_max: int = 1 << 30,
    bytes_per_tenant_max: int = 1 << 30,
    messages_max: int = 100,
    events_max: int = 1000,
    ended_turns_max: int = 3,
) -> AgentLimits:
    """Limits that are small enough to reach in a test."""
    return AgentLimits(
        conversations_max=conversations_max,
        conversations_per_tenant_max=conversations_per_tenant_max,
        bytes_max=bytes_max,
        bytes_per_tenant_max=bytes_per_tenant_max,
        messages_max=messages_max,
        idle_expiry_s=600.0,
        events_max=events_max,
        ended_turns_max=ended_turns_max,
        turn=LIMITS,
    )


class Client:
    """The client of one conversation. It reads every event while `reading` is set."""

    def __init__(self, conversation: Conversation, handler: Handler | None) -> None:
        self.conversation = conversation
        self.numbered: list[NumberedEvent] = []
        self.reading = asyncio.Event()
        self.reading.set()
        self._handler = handler
        self._turn_numbers = itertools.count(1)
        self.running = asyncio.create_task(conversation.run())
        self._taking = asyncio.create_task(self._take())

    @property
    def events(self) -> list[ConversationEvent]:
        """The events that the client has read."""
        return [event.event for event in self.numbered]

    def of(self, kind: type[T]) -> list[T]:
        """The events of one kind that the client has read."""
        return of(kind, self.events)

    async def send(
        self,
        text: str = "hi",
        *,
        turn_id: str = "",
        generation: GenerationSettings | None = None,
        limits: TurnLimits = LIMITS,
    ) -> str:
        """Starts a turn and lets it run as far as it can. Returns the turn's id."""
        turn_id = turn_id or f"turn-{next(self._turn_numbers)}"
        spec = TurnSpec(
            turn_id=turn_id,
            text=text,
            generation=generation or GenerationSettings(),
            limits=limits,
        )
        await self.conversation.start_turn(spec)
        await settle()
        return turn_id

    async def ask(
        self,
        text: str = "hi",
        *,
        generation: GenerationSettings | None = None,
        limits: TurnLimits = LIMITS,
    ) -> TurnCompleted:
        """Runs a turn that needs nothing more from the test. Returns its ending."""
        turn_id = await self.send(text, generation=generation, limits=limits)
        return self.ending(turn_id)

    def ending(self, turn_id: str = "") -> TurnCompleted:
        """The ending of the turn; without an id, of the last turn that ended."""
        endings = [
            numbered.event
            for numbered in self.numbered
            if isinstance(numbered.event, TurnCompleted) and turn_id in ("", numbered.turn_id)
        ]
        assert endings, "no turn has ended"
        return endings[-1]

    async def answer(self, index: int = -1, result_json: str = "1") -> None:
        """Answers an invocation with a result. `index` counts the invocations in their order."""
        await self.deliver(HandlerResult(result_json), index)

    async def deliver(self, answer: HandlerAnswer, index: int = -1) -> None:
        """Answers an invocation. `index` counts the invocations in their order."""
        invocation = self.of(Invoke)[index]
        await self.conversation.deliver(invocation.invocation_id, answer)
        await settle()

    async def stop_reading(self) -> None:
        """Stops reading; an outbox with room for one event is full from then on."""
        await settle()
        self.reading.clear()
        for _ in range(2):  # one is taken by the read in progress, one fills the outbox
            await self.conversation.outbox.put(GoAway(1.0, "soon"))
            await settle()

    async def vanish(self) -> None:
        """Loses the client: cancels the tasks that run for it, as the transport does."""
        for task in (self.running, self._taking):
            task.cancel()
        await asyncio.wait([self.running, self._taking])

    async def close(self) -> None:
        """Ends the conversation, reads the remaining events, and checks all events."""
        self.reading.set()
        if not self.running.done():
            self.conversation.drain()
            await settle()
        if not self.running.done():
            await self.vanish()
        await asyncio.wait([self._taking])
        if not self.running.cancelled():
            self.running.result()
        if not self._taking.cancelled():
            self._taking.result()
        check_order(self.numbered)

    async def _take(self) -> None:
        """Reads events, then closes the outbox so that no writer waits, as the transport does."""
        try:
            await self._take_all()
        finally:
            self.conversation.outbox.close()

    async def _take_all(self) -> None:
        while True:
            await self.reading.wait()
            taken = await self.conversation.outbox.take()
            if not taken:
                return
            self.numbered += taken
            for event in taken:
                if isinstance(event.event, Invoke) and self._handler is not None:
                    answer = self._handler(event.event)
                    if answer is not None:
                        await self.conversation.deliver(event.event.invocation_id, answer)


class Agent:
    """An engine with the whole agent loop around it, on a manual clock."""

    def __init__(
        self,
        engines: Sequence[ScriptedEngine],
        limits: AgentLimits,
        tracer: Tracer,
        predictors: Sequence[Predictor] | Callable[[ToolCache], Sequence[Predictor]],
        speculation: SpeculationLimits,
        *,
        draft_engines: Sequence[ScriptedEngine],
        token_latency_s: float | None,
    ) -> None:
        rest = iter(engines)
        self.clock = ManualClock()
        self.supervisor = EngineSupervisor(
            ScriptedFactory(lambda: next(rest)), self.clock, RestartPolicy()
        )
        self.admission = Admission(
            self.clock, AdmissionLimits(hold_s=HOLD_S, token_latency_s=token_latency_s)
        )
        drafting = iter(draft_engines)
        self.draft_supervisor = EngineSupervisor(
            ScriptedFactory(lambda: next(drafting)), self.clock, RestartPolicy()
        )
        follow_engine(self.admission, self.supervisor)
        self.prompts = FairStage(self.admission.limits)
        self.growth = GrowthRecord()
        self.dispatcher = Dispatcher(self.clock, tool_limits())
        self.store = MemoryStore(self.clock, bytes_max=1 << 20, nodes_max=1024, changes_max=256)
        self.cache = ToolCache(self.store, CacheLimits(entry_bytes_max=4096))
        self.speculation = Speculation(
            predictors=predictors(self.cache) if callable(predictors) else predictors,
            learners=(),
            engines=self.supervisor,
            draft_engines=self.draft_supervisor if draft_engines else None,
            admission=self.admission,
            clock=self.clock,
            limits=speculation,
        )
        services = TurnServices(
            model="scripted",
            engines=self.supervisor,
            admission=self.admission,
            prompts=self.prompts,
            growth=self.growth,
            dispatcher=self.dispatcher,
            cache=self.cache,
            cached_calls=CachedCalls(self.cache, self.dispatcher, self.clock),
            speculation=self.speculation,
            clock=self.clock,
            tracer=tracer,
        )
        self.conversations = Conversations(services, limits, tool_limits())
        self.engines = engines
        self.clients: list[Client] = []
        self._open = ExitStack()

    @property
    def engine(self) -> ScriptedEngine:
        """The first engine."""
        return self.engines[0]

    def resize(self, *, slots: int = 64, kv_tokens: int = 1 << 20) -> None:
        """Changes the capacity of the engine."""
        self.admission.resize(Capacity(slots=slots, kv_tokens=kv_tokens))

    def open(
        self,
        *tools: ToolProposal,
        tenant: str = "ann",
        history: Sequence[Message] = (),
        system_prompt: str = "",
        template_variables: JsonObject | None = None,
        handler: Handler | None = None,
        speculation: SpeculationRequest = WITH_EVENTS,
    ) -> Client:
        """Opens a conversation with these tools. Returns its client."""
        transcript = Transcript(
            messages=tuple(history),
            system_prompt=system_prompt,
            template_variables=template_variables or {},
        )
        conversation = self._open.enter_context(
            self.conversations.opened(tenant, "helper", transcript, speculation)
        )
        toolset = conversation._toolset  # pyright: ignore[reportPrivateUsage]
        for tool in tools:
            toolset.add(declare(tool, self.conversations.tool_limits))
        client = Client(conversation, handler)
        self.clients.append(client)
        return client

    def leave_all(self) -> None:
        """Ends the streams of all clients."""
        self._open.close()

    async def advance(self, seconds: float) -> None:
        """Advances the clock and lets everything run as far as it can."""
        self.clock.advance(seconds)
        await settle()

    async def restart(self) -> None:
        """Kills the engine; the next one takes its place."""
        dead = self.supervisor.engine()
        assert isinstance(dead, ScriptedEngine)
        dead.die()
        await settle()
        await self.advance(60)

    async def assert_idle(self) -> None:
        """Checks that nothing runs, waits or is held."""
        await settle()
        assert (self.admission.admitted, self.admission.waiting) == (0, 0)
        assert self.prompts.waiting == 0
        assert self.dispatcher.in_flight == 0
        assert self.speculation.in_flight == 0
        if self.supervisor.running is not None:
            load = await self.supervisor.engine().load()
            assert (load.running, load.waiting) == (0, 0)

    async def close(self) -> None:
        """Ends every conversation and checks that nothing is left of them."""
        for client in self.clients:
            await client.close()
        self.leave_all()
        await self.assert_idle()
        held = self.conversations.held
        assert (held.total, held.bytes_by_tenant, held.conversations_by_tenant) == (0, {}, {})


def scripted(*steps: Step, script: Script | None = None, **info: int) -> ScriptedEngine:
    """A scripted engine for these steps or this script; `info` overrides fields of its info."""
    return ScriptedEngine(script or steps, replace(INFO, **info))


@asynccontextmanager
async def agent_on(
    *engines: ScriptedEngine,
    limits: AgentLimits | None = None,
    tracer: Tracer | None = None,
    predictors: Sequence[Predictor] | Callable[[ToolCache], Sequence[Predictor]] = (),
    speculation: SpeculationLimits | None = None,
    draft_engines: Sequence[ScriptedEngine] = (),
    token_latency_s: float | None = None,
) -> AsyncGenerator[Agent]:
    """An agent on these engines, one after the other. The end of the block closes and checks it.

    `draft_engines` are those of the draft model, if there is one.
    """
    there = Agent(
        engines,
        limits or agent_limits(),
        tracer or default_tracer(),
        predictors,
        speculation or SpeculationLimits(),
        draft_engines=draft_engines,
        token_latency_s=token_latency_s,
    )
    await there.supervisor.start(lambda _stage, _fraction: None)
    running: list[asyncio.Task[None]] = [asyncio.create_task(there.supervisor.run())]
    if draft_engines:
        running.append(asyncio.create_task(there.draft_supervisor.keep()))
    await settle()
    try:
        async with there.cache, there.dispatcher, there.speculation:
            yield there
            await there.close()
    finally:
        for task in running:
            task.cancel()
        await asyncio.wait(running)
        await there.supervisor.close()
        await there.draft_supervisor.close()
    assert there.clock.pending == 0


def agent(
    *steps: Step, limits: AgentLimits | None = None, tracer: Tracer | None = None
) -> AbstractAsyncContextManager[Agent]:
    """An agent on one engine that generates these steps in order, for all conversations."""
    return agent_on(scripted(*steps), limits=limits, tracer=tracer)
