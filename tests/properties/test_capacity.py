"""Turns are admitted if and only if the engine is READY, for any deaths and restarts."""

from __future__ import annotations

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from precall_service.admission import Admission, AdmissionLimits
from precall_service.agent.capacity import follow_engine
from precall_service.engine.base import EngineStartError
from precall_service.engine.supervisor import EngineState, EngineSupervisor, RestartPolicy
from tests.support.clock import ManualClock, settle
from tests.support.scripted_engine import ScriptedEngine, ScriptedFactory

ACTS = st.sampled_from(["die", "report death", "report the first death again", "wait", "let run"])


class Play:
    """A supervisor with an admission that follows it."""

    def __init__(self, starts: list[bool]) -> None:
        self.clock = ManualClock()
        self._starts = iter([True, *starts])
        self.factory = ScriptedFactory(self._make)
        self.supervisor = EngineSupervisor(self.factory, self.clock, RestartPolicy())
        self.admission = Admission(self.clock, AdmissionLimits())
        follow_engine(self.admission, self.supervisor)

    def _make(self) -> ScriptedEngine:
        if not next(self._starts, True):
            raise EngineStartError("no memory")
        return ScriptedEngine([])

    def check(self) -> None:
        """Checks that a turn that enters now is admitted if and only if the engine is READY."""
        with self.admission.enter("ann", 1):
            ready = self.supervisor.state is EngineState.READY
            assert self.admission.admitted == ready

    async def act(self, act: str) -> None:
        engine = self.factory.started[-1]
        match act:
            case "die":
                engine.die()
            case "report death":
                self.supervisor.report_death(engine)
            case "report the first death again":
                self.supervisor.report_death(self.factory.started[0])
            case "wait":
                self.clock.advance(60.0)
            case _:
                await settle()


@settings(max_examples=100)
@given(st.lists(st.booleans(), max_size=6), st.lists(ACTS, max_size=12))
def test_turns_are_admitted_while_the_engine_is_ready(starts: list[bool], acts: list[str]) -> None:
    async def play() -> None:
        played = Play(starts)
        played.check()
        await played.supervisor.start(lambda _stage, _fraction: None)
        running = asyncio.create_task(played.supervisor.run())
        for act in acts:
            await played.act(act)
            played.check()
        for _ in range(len(starts) + 2):
            await settle()
            played.clock.advance(60.0)
        await settle()
        assert played.supervisor.state is EngineState.READY
        played.check()
        running.cancel()
        await asyncio.wait([running])
        await played.supervisor.close()

    asyncio.run(play())
