"""One engine is kept running: its start, its deaths, and the states and errors meanwhile."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from precall_service.domain.errors import Code, Reason, ServiceError
from precall_service.engine.base import (
    EngineNotReachedError,
    EngineStartError,
    Progress,
)
from precall_service.engine.supervisor import EngineState, EngineSupervisor
from tests.support.clock import ManualClock, settle
from tests.support.kept_engine import POLICY, Kept, Starts, engine, no_progress
from tests.support.scripted_engine import INFO, ScriptedEngine, ScriptedFactory


def unavailable(supervisor: EngineSupervisor) -> ServiceError:
    with pytest.raises(ServiceError) as caught:
        supervisor.engine()
    assert supervisor.running is None
    assert caught.value.reason is Reason.ENGINE_UNAVAILABLE
    assert caught.value.code is Code.UNAVAILABLE
    return caught.value


async def test_a_start() -> None:
    kept = Kept(engine)
    assert kept.supervisor.state is EngineState.STARTING
    assert kept.supervisor.info is None
    error = unavailable(kept.supervisor)
    assert "is starting" in error.message
    assert error.retry_after_s == POLICY.retry_hint_s

    assert await kept.supervisor.start(no_progress) == INFO
    assert kept.supervisor.state is EngineState.READY
    assert kept.supervisor.info == INFO
    assert kept.supervisor.engine() is kept.supervisor.running is kept.factory.started[0]
    await kept.supervisor.close()


async def test_a_start_tells_its_progress() -> None:
    told: list[tuple[str, float | None]] = []
    kept = Kept(engine)
    await kept.supervisor.start(lambda stage, fraction: told.append((stage, fraction)))
    assert told
    await kept.supervisor.close()


@pytest.mark.parametrize("failure", [EngineStartError("no such model"), OSError("no memory")])
async def test_a_first_start_that_fails_is_final(failure: Exception) -> None:
    kept = Kept(Starts(failure))
    with pytest.raises(type(failure)):
        await kept.supervisor.start(no_progress)
    assert kept.supervisor.state is EngineState.FAILED
    assert unavailable(kept.supervisor).retry_after_s is None


async def test_a_first_start_that_is_cancelled_is_final() -> None:
    async def never(on_progress: Progress) -> ScriptedEngine:
        await asyncio.Event().wait()
        raise AssertionError

    supervisor = EngineSupervisor(never, ManualClock(), POLICY)
    starting = asyncio.create_task(supervisor.start(no_progress))
    await settle()
    starting.cancel()
    await asyncio.wait([starting])
    assert starting.cancelled()
    assert supervisor.state is EngineState.FAILED


async def test_a_dead_engine_is_replaced_at_once() -> None:
    kept = Kept(engine)
    async with kept.running():
        await kept.kill()
        assert kept.supervisor.state is EngineState.RESTARTING
        assert kept.supervisor.info == INFO
        error = unavailable(kept.supervisor)
        assert "died" in error.message
        assert error.retry_after_s == POLICY.retry_hint_s
        assert kept.factory.started[0].closed

        await kept.advance(0)
        assert kept.supervisor.state is EngineState.READY
        assert kept.supervisor.engine() is kept.factory.started[1]


async def test_the_wait_grows_with_each_death() -> None:
    kept = Kept(engine)
    async with kept.running():
        for restart, backoff_s in enumerate([0, 1, 2, 4, 8, 8], start=2):
            await kept.kill()
            if backoff_s:
                await kept.advance(backoff_s - 0.001)
                assert kept.supervisor.state is EngineState.RESTARTING
            await kept.advance(0.001)
            assert kept.supervisor.state is EngineState.READY
            assert len(kept.factory.started) == restart


async def test_the_wait_grows_with_each_failed_restart() -> None:
    starts = Starts(None, *[OSError("no memory")] * 5)
    kept = Kept(starts)
    async with kept.running():
        await kept.kill()
        for attempts, backoff_s in enumerate([0, 1, 2, 4, 8], start=2):
            if backoff_s:
                await kept.advance(backoff_s - 0.001)
                assert starts.count == attempts - 1
            await kept.advance(0.001)
            assert starts.count == attempts
            assert kept.supervisor.state is EngineState.RESTARTING
        await kept.advance(8)
        assert kept.supervisor.state is EngineState.READY


async def test_a_long_life_resets_the_wait() -> None:
    kept = Kept(engine)
    async with kept.running():
        for _ in range(3):
            await kept.kill()
            await kept.advance(8)
        await kept.advance(POLICY.stable_s)
        await kept.kill()
        await kept.advance(0)
        assert kept.supervisor.state is EngineState.READY


async def test_a_restart_is_tried_again_after_any_failure() -> None:
    """The configuration worked once; memory that the dead process still holds is freed later."""
    kept = Kept(Starts(None, EngineStartError("Free memory is less than desired")))
    async with kept.running() as watching:
        await kept.kill()
        await kept.advance(0)
        assert kept.supervisor.state is EngineState.RESTARTING
        assert unavailable(kept.supervisor).retry_after_s == POLICY.retry_hint_s
        await kept.advance(1)
        assert kept.supervisor.state is EngineState.READY
        assert not watching.done()


async def test_a_dead_engine_that_cannot_be_cleared_away_is_still_replaced() -> None:
    class Stubborn(ScriptedEngine):
        async def close(self) -> None:
            raise OSError("its process does not answer")

    engines = [Stubborn([]), engine()]
    kept = Kept(lambda: engines.pop(0))
    async with kept.running():
        await kept.kill()
        await kept.advance(0)
        assert kept.supervisor.state is EngineState.READY


async def test_closed_while_it_waits_to_start_again() -> None:
    kept = Kept(Starts(None, OSError("no memory")))
    async with kept.running():
        await kept.kill()
        await kept.advance(0)
        assert kept.clock.pending == 1
    await kept.supervisor.close()
    assert len(kept.factory.started) == 1


async def test_a_fast_reader_gets_every_state() -> None:
    kept = Kept(engine)
    told: list[EngineState] = []

    async def follow() -> None:
        async for state in kept.supervisor.states():
            told.extend((state,))

    following = asyncio.create_task(follow())
    await settle()
    async with kept.running():
        await kept.kill()
        await kept.advance(0)
        await kept.kill()
    assert told == [
        EngineState.STARTING,
        EngineState.READY,
        EngineState.RESTARTING,
        EngineState.READY,
        EngineState.RESTARTING,
    ]
    following.cancel()
    await asyncio.wait([following])


async def test_a_slow_reader_of_states_gets_the_latest() -> None:
    kept = Kept(engine)
    async with aclosing(kept.supervisor.states()) as states:
        assert await anext(states) is EngineState.STARTING
        async with kept.running():
            await kept.kill()
            assert await anext(states) is EngineState.RESTARTING


async def test_a_state_that_came_back_is_not_told_twice() -> None:
    kept = Kept(engine)
    async with aclosing(kept.supervisor.states()) as states, kept.running():
        assert await anext(states) is EngineState.READY
        await kept.kill()
        await kept.advance(0)
        waiting = asyncio.ensure_future(anext(states))
        await settle()
        assert not waiting.done()
        await kept.kill()
        assert await waiting is EngineState.RESTARTING


async def test_the_error_for_a_turn_that_died_with_the_engine() -> None:
    supervisor = EngineSupervisor(ScriptedFactory(engine), ManualClock(), POLICY)
    error = supervisor.died()
    assert error.reason is Reason.ENGINE_UNAVAILABLE
    assert error.retry_after_s == POLICY.retry_hint_s


async def test_an_engine_whose_death_is_reported_is_replaced_even_if_it_lives() -> None:
    kept = Kept(engine)
    async with kept.running():
        first = kept.supervisor.engine()
        kept.supervisor.report_death(first)
        assert kept.supervisor.state is EngineState.RESTARTING, "in the same moment"
        unavailable(kept.supervisor)
        await settle()
        await kept.advance(0)
        assert kept.supervisor.state is EngineState.READY
        assert kept.supervisor.engine() is kept.factory.started[1]
        assert kept.factory.started[0].closed


async def test_a_death_reported_before_it_is_watched_for_is_not_missed() -> None:
    kept = Kept(engine)
    await kept.supervisor.start(no_progress)
    kept.supervisor.report_death(kept.supervisor.engine())
    running = asyncio.create_task(kept.supervisor.run())
    await settle()
    await kept.advance(0)
    assert kept.supervisor.engine() is kept.factory.started[1]
    running.cancel()
    await asyncio.wait([running])
    await kept.supervisor.close()


async def test_a_late_report_of_a_death_does_not_end_the_next_engine() -> None:
    kept = Kept(engine)
    async with kept.running():
        first = kept.supervisor.engine()
        await kept.kill()
        await kept.advance(0)
        kept.supervisor.report_death(first)
        await settle()
        assert kept.supervisor.engine() is kept.factory.started[1]


async def test_a_listener_gets_each_state_in_the_moment_of_the_change() -> None:
    kept = Kept(engine)
    told: list[EngineState] = []
    kept.supervisor.on_state(told.append)
    assert told == [EngineState.STARTING]
    async with kept.running():
        kept.supervisor.report_death(kept.supervisor.engine())
        assert told[-1] is EngineState.RESTARTING
        await settle()
        await kept.advance(0)
    assert told[-2:] == [EngineState.RESTARTING, EngineState.READY]


@pytest.mark.parametrize("unknown", [False, True])
async def test_the_log_says_how_the_engine_died(
    caplog: pytest.LogCaptureFixture, unknown: bool
) -> None:
    class Killed(ScriptedEngine):
        async def cause_of_death(self) -> str:
            if unknown:
                raise OSError("no such process")
            return "killed by signal 9 (SIGKILL)"

    engines = [Killed([]), engine()]
    kept = Kept(lambda: engines.pop(0))
    async with kept.running():
        await kept.kill()
        await kept.advance(0)
        assert kept.supervisor.state is EngineState.READY
    how = "the cause is unknown" if unknown else "killed by signal 9 (SIGKILL)"
    assert f"the engine died ({how}); starting it again in 0 s" in caplog.text


async def kept_on(kept: Kept) -> asyncio.Task[None]:
    task = asyncio.create_task(kept.supervisor.keep())
    await settle()
    return task


async def end(kept: Kept, task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])
    await kept.supervisor.close()
    assert kept.clock.pending == 0


async def test_an_engine_that_is_kept_is_started_and_replaced() -> None:
    kept = Kept(engine)
    task = await kept_on(kept)
    assert kept.supervisor.state is EngineState.READY
    await kept.kill()
    await kept.advance(0)
    assert kept.supervisor.running is kept.factory.started[1]
    await end(kept, task)


@pytest.mark.parametrize("failure", [OSError("no memory"), EngineNotReachedError("no answer")])
async def test_a_first_start_of_a_kept_engine_is_tried_again(failure: Exception) -> None:
    starts = Starts(failure, EngineStartError("in use"))
    kept = Kept(starts)
    task = await kept_on(kept)
    assert kept.supervisor.state is EngineState.FAILED
    await kept.advance(1)
    assert starts.count == 2
    await kept.advance(2)
    assert kept.supervisor.state is EngineState.READY
    await end(kept, task)


async def test_a_kept_engine_that_cannot_start_as_configured_is_given_up(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = ManualClock()
    starts = Starts(EngineStartError("no such model"))
    supervisor = EngineSupervisor(ScriptedFactory(starts), clock, POLICY, name="the second engine")
    await supervisor.keep()
    assert supervisor.running is None
    assert (starts.count, clock.pending) == (1, 0)
    assert "the second engine is not used: no such model" in caplog.text
