"""Keeps the admission's capacity equal to the engine's."""

from __future__ import annotations

from precall_service.admission import Admission, Capacity
from precall_service.engine.supervisor import EngineState, EngineSupervisor


def follow_engine(admission: Admission, engines: EngineSupervisor) -> None:
    """From now on, admits turns only while the engine is READY.

    The capacity changes together with the engine's state, so the two never disagree. When an engine
    dies, the shares of its turns are not given to other turns, which would fail as well.
    """

    def follow(state: EngineState) -> None:
        info = engines.info
        if state is EngineState.READY and info is not None:
            admission.resize(Capacity(slots=info.sequences_max, kv_tokens=info.kv_tokens))
        else:
            admission.suspend()

    engines.on_state(follow)
