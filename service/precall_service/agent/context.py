"""What a turn gets from its process and its conversation, and what it returns."""

from __future__ import annotations

from dataclasses import dataclass, field

from precall_service.admission import Admission, FairStage, GrowthRecord
from precall_service.agent.cached_calls import CachedCalls
from precall_service.agent.held_bytes import Holding
from precall_service.agent.speculation import Speculation
from precall_service.agent.transcript import Tail
from precall_service.cache.cache import ToolCache
from precall_service.domain.clock import Clock
from precall_service.domain.events import TurnCompleted
from precall_service.domain.messages import Message, Transcript
from precall_service.domain.speculation import SpeculationSettings
from precall_service.engine.supervisor import EngineSupervisor
from precall_service.tools.dispatch import Dispatcher
from precall_service.tools.toolset import RegisteredTool
from precall_tracing.turns import Tracer, default_tracer


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnServices:
    """What all turns of the process share.

    `model` is the name that clients use. In `prompts`, prompts are made.
    """

    model: str
    engines: EngineSupervisor
    admission: Admission
    prompts: FairStage
    growth: GrowthRecord
    dispatcher: Dispatcher
    cache: ToolCache
    cached_calls: CachedCalls
    speculation: Speculation
    clock: Clock
    tracer: Tracer = field(default_factory=default_tracer)


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnContext:
    """What a turn gets from its conversation: the transcript so far, the tools, and names.

    `who` names the conversation and its tenant, for the log. `holding` counts what the turn adds.
    """

    conversation_id: str
    tenant: str
    who: str
    agent_name: str
    model: str
    transcript: Transcript
    tail: Tail | None
    tools: tuple[RegisteredTool, ...]
    speculation: SpeculationSettings
    holding: Holding


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnEnding:
    """How a turn ended, and what the conversation keeps of it.

    `messages` are the messages that the turn adds; none if it failed without possible effects.
    `begun` says whether a step was started.
    """

    completed: TurnCompleted
    begun: bool
    messages: tuple[Message, ...]
    tail: Tail | None
