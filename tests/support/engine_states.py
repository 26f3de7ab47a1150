"""Waits for the states of a supervised engine."""

from __future__ import annotations

from precall_service.engine.supervisor import EngineState, EngineSupervisor


async def passed(engines: EngineSupervisor, *wanted: EngineState) -> None:
    """Returns once the engine has been in each of these states, in this order."""
    left = list(wanted)
    async for state in engines.states():
        if state is left[0]:
            left.pop(0)
        if not left:
            return
