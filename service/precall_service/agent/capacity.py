"""Keeps the admission's capacity that of the engine."""

from __future__ import annotations

from precall_service.admission import Admission, Capacity
from precall_service.engine.base import EngineState
from precall_service.engine.supervisor import EngineSupervisor


async def follow_engine(admission: Admission, engines: EngineSupervisor) -> None:
    """Follows the engine for as long as it is not cancelled. Turns wait while it is restarted."""
    async for state in engines.states():
        info = engines.info
        if state is EngineState.RESTARTING:
            admission.suspend()
        elif info is not None:
            admission.resize(Capacity(slots=info.sequences_max, kv_tokens=info.kv_tokens))
