"""What the server is, serves and allows, as messages of the contract."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Final

from precall.v1 import agent_pb2, prediction_pb2, turn_pb2
from precall_service.admission import Admission
from precall_service.agent.limits import AgentLimits
from precall_service.agent.speculation import Speculation
from precall_service.domain.clock import Clock
from precall_service.domain.speculation import SpeculationMode
from precall_service.engine.base import EngineDiedError, EngineLoad, Feature
from precall_service.engine.supervisor import EngineSupervisor
from precall_service.tools.declarations import ToolLimits
from precall_service.tools.timeout import within
from precall_service.transport.fields import duration
from precall_service.transport.speculation import speculation_stats

log = logging.getLogger(__name__)

_LOAD_TIMEOUT_S: Final = 2.0
"""How long GetServerInfo waits for the engine to report its load."""

_CAPABILITIES = {
    Feature.TOOL_CALLS: agent_pb2.CAPABILITY_TOOL_CALLS,
    Feature.STRUCTURED_CALLS: agent_pb2.CAPABILITY_STRUCTURED_CALLS,
    Feature.REASONING: agent_pb2.CAPABILITY_REASONING,
    Feature.DRAFTS: agent_pb2.CAPABILITY_DRAFTS,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerInfo:
    """What clients can learn about the server. `model` is known before the engine runs.

    `tells_load` says whether they learn its load, and with it what all other tenants do.
    """

    version: str
    model: str
    frame_bytes_max: int
    agent_limits: AgentLimits
    tool_limits: ToolLimits
    engines: EngineSupervisor
    admission: Admission
    speculation: Speculation
    clock: Clock
    started_at: float
    tells_load: bool

    def capabilities(self) -> list[agent_pb2.Capability.ValueType]:
        """Returns what the server can do, by itself and with the model that it serves."""
        info = self.engines.info
        features = frozenset[Feature]() if info is None else info.features
        of_model = [each for feature, each in _CAPABILITIES.items() if feature in features]
        own = [agent_pb2.CAPABILITY_TOOL_CACHE]
        if self.speculation.limits.most.mode is not SpeculationMode.OFF:
            own.append(agent_pb2.CAPABILITY_SPECULATION)
        return [*of_model, *own]

    def limits(self) -> agent_pb2.ServerLimits:
        """Returns the limits of the server."""
        info = self.engines.info
        turn, tools = self.agent_limits.turn, self.tool_limits
        return agent_pb2.ServerLimits(
            frame_bytes_max=self.frame_bytes_max,
            text_bytes_max=self.agent_limits.text_bytes_max,
            tools_max=tools.tools_max,
            schema_bytes_max=tools.schema_bytes_max,
            description_bytes_max=tools.description_bytes_max,
            result_bytes_max=tools.result_bytes_max,
            context_tokens_max=(info and info.context_tokens_max) or 0,
            messages_max=self.agent_limits.messages_max,
            turn_limits_max=turn_pb2.TurnLimits(
                max_steps=turn.max_steps,
                max_turn_tokens=turn.max_turn_tokens,
                max_duration=duration(turn.max_duration_s),
            ),
            tool_timeout_max=duration(tools.timeout_max_s),
            arguments_bytes_max=tools.arguments_bytes_max,
        )

    async def response(self) -> agent_pb2.GetServerInfoResponse:
        """Returns everything, with the current load if clients may know it."""
        info = self.engines.info
        return agent_pb2.GetServerInfoResponse(
            version=self.version,
            model=self.model,
            capabilities=self.capabilities(),
            limits=self.limits(),
            engine_state=agent_pb2.EngineState.ValueType(self.engines.state.value),
            engine="" if info is None else info.name,
            load=await self._load() if self.tells_load else None,
            uptime=duration(self.clock.now() - self.started_at),
        )

    def speculation_stats(self, tenant: str) -> prediction_pb2.GetSpeculationStatsResponse:
        """Returns what speculation has done for a tenant."""
        return speculation_stats(
            self.speculation.records.peek(tenant),
            allowance=self.speculation.load.allowance(),
            now=self.clock.now(),
        )

    async def _load(self) -> agent_pb2.EngineLoad:
        """Returns the load, with zeros for what the engine does not say in time."""
        load = await self._engine_load()
        return agent_pb2.EngineLoad(
            running_sequences=load.running,
            waiting_sequences=load.waiting,
            kv_cache_usage=load.kv_usage,
            admitted_turns=self.admission.admitted,
            waiting_turns=self.admission.waiting,
            turns_max=self.admission.turns_max,
        )

    async def _engine_load(self) -> EngineLoad:
        engine = self.engines.running
        if engine is not None:
            try:
                async with within(self.clock, _LOAD_TIMEOUT_S):
                    return await engine.load()
            except EngineDiedError:
                pass  # the engine's state says so
            except TimeoutError:
                log.warning("the engine did not report its load within %g s", _LOAD_TIMEOUT_S)
        return EngineLoad(running=0, waiting=0, kv_usage=0.0)
