"""An engine that is silent takes no turns; one that hangs is killed and replaced."""

from __future__ import annotations

import asyncio

import pytest

from precall_service.engine.base import EngineDiedError
from precall_service.engine.supervisor import EngineState
from tests.support.kept_engine import POLICY, Kept, engine
from tests.support.scripted_engine import ScriptedEngine


async def look_on(kept: Kept, seconds: float) -> None:
    """Lets time pass as the supervisor looks at the engine."""
    for _ in range(round(seconds)):
        await kept.advance(1.0)


async def test_an_engine_that_is_silent_takes_no_turns_until_it_gives_a_sign(
    caplog: pytest.LogCaptureFixture,
) -> None:
    kept = Kept(engine)
    async with kept.running():
        await look_on(kept, 2 * POLICY.hung_notice_s)
        assert kept.supervisor.state is EngineState.READY, "it answers when it is asked"
        assert kept.supervisor.progress_age_s < POLICY.hung_notice_s / 5

        silent = kept.factory.started[0]
        silent.silent = True
        await look_on(kept, POLICY.hung_notice_s - 1)
        assert kept.supervisor.state is EngineState.READY
        await look_on(kept, 2 + POLICY.hung_notice_s / 5)
        assert kept.supervisor.state is EngineState.SILENT
        assert kept.supervisor.progress_age_s >= POLICY.hung_notice_s
        assert kept.supervisor.engine() is silent, "turns that run wait for it"
        assert "the engine has given no sign of life for" in caplog.text
        assert "it is started again" in caplog.text

        silent.progress += 1  # a step has ended
        await look_on(kept, POLICY.hung_notice_s / 10)
        assert kept.supervisor.state is EngineState.READY
        assert "gives signs of life again" in caplog.text
        assert len(kept.factory.started) == 1


async def test_an_engine_that_hangs_is_killed_and_replaced(
    caplog: pytest.LogCaptureFixture,
) -> None:
    kept = Kept(engine)
    async with kept.running():
        hung = kept.factory.started[0]
        hung.silent = True
        waiting = asyncio.ensure_future(hung.load())
        await look_on(kept, POLICY.hung_restart_s + POLICY.hung_notice_s)
        assert (hung.killed, hung.closed) == (True, True)
        assert kept.supervisor.engine() is kept.factory.started[1]
        assert kept.supervisor.progress_age_s < POLICY.hung_notice_s / 5
        with pytest.raises(EngineDiedError):
            await waiting
    assert "without a sign of life); starting it again in 0 s" in caplog.text


async def test_an_engine_that_cannot_be_killed_is_replaced_nevertheless() -> None:
    class Stubborn(ScriptedEngine):
        async def kill(self) -> None:
            raise OSError("its process does not answer")

    engines = [Stubborn([]), engine()]
    engines[0].silent = True
    kept = Kept(lambda: engines.pop(0))
    async with kept.running():
        await look_on(kept, POLICY.hung_restart_s + POLICY.hung_notice_s)
        assert kept.supervisor.state is EngineState.READY
        assert len(kept.factory.started) == 2


async def test_time_in_which_the_service_was_held_up_is_not_the_engines() -> None:
    kept = Kept(engine)
    async with kept.running():
        await kept.advance(10 * POLICY.hung_restart_s)
        assert kept.supervisor.state is EngineState.READY
        assert kept.supervisor.engine() is kept.factory.started[0]


async def test_an_engine_with_more_to_do_than_to_answer_is_not_silent() -> None:
    kept = Kept(engine)
    async with kept.running():
        busy = kept.factory.started[0]
        busy.silent = True
        for _ in range(round(POLICY.hung_restart_s)):
            busy.progress += 1  # an output of a generation
            await kept.advance(1.0)
        assert kept.supervisor.state is EngineState.READY
