"""A server that drains: streams get GoAway, turns finish, and everything else gets a status."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import grpc
import pytest

from precall.v1 import agent_pb2, invocation_pb2, turn_pb2
from precall_service.app import Service, serve
from precall_service.engine.supervisor import EngineState
from precall_service.settings import load_settings
from tests.support.clock import settle
from tests.support.scripts import Pause, calls, in_turn, says
from tests.support.stream import (
    MODEL,
    WEATHER,
    Engines,
    RunningServer,
    StreamDriver,
    connected,
    eventually,
    health,
    running_server,
)
from tests.support.wire import Failure, failure, seconds

CALL = calls(("weather", '{"city":"Rome"}'))


@asynccontextmanager
async def draining(server: RunningServer, time_left_s: float) -> AsyncGenerator[None]:
    """Lets the server drain, at least until the end of the block."""
    async with asyncio.TaskGroup() as group:
        group.create_task(server.service.conversations.drain(time_left_s))
        yield


def shut_down(error: Failure | None) -> None:
    assert error is not None
    assert error.reason == "DRAINING"
    assert error.code is grpc.StatusCode.UNAVAILABLE
    assert error.retry_after_s is not None


async def test_an_idle_stream_gets_go_away_and_ends() -> None:
    async with running_server() as server:
        stream = await server.opened()
        async with draining(server, 20.0):
            away = (await stream.expect("go_away")).go_away
            assert seconds(away.time_left) == 20.0
            assert away.message
            shut_down(await stream.ended())
        assert stream.kinds() == ["opened", "go_away"]


async def test_a_running_turn_finishes_and_the_next_one_is_refused() -> None:
    done = asyncio.Event()
    async with running_server(in_turn([*CALL], [Pause(done), *says("Warm.")])) as server:
        stream = await server.opened(WEATHER)
        await stream.start()
        invoke = await stream.invoked()
        async with draining(server, 20.0):
            await stream.expect("go_away")
            await stream.answer(invoke.invocation_id)
            await stream.call_completed()
            shut_down(await stream.refused(await stream.start("More?", "t2")))
            done.set()
            ended = await stream.completed()
            assert ended.outcome == turn_pb2.TURN_OUTCOME_ANSWERED
            assert ended.text == "Warm."
            shut_down(await stream.ended())


async def test_a_new_stream_is_refused() -> None:
    async with running_server() as server:
        async with draining(server, 20.0):
            pass
        stream = server.stream()
        await stream.send("open", agent_pb2.OpenConversation())
        shut_down(await stream.ended())


@pytest.mark.parametrize("phase", ["generating", "running a tool"])
async def test_a_turn_that_outlasts_the_drain_ends_with_a_status(phase: str) -> None:
    never = asyncio.Event()
    step = CALL if phase == "running a tool" else [*says("So far"), Pause(never)]
    async with running_server(in_turn(step)) as server:
        stream = await server.opened(WEATHER)
        await stream.start()
        await stream.expect("invoke" if step is CALL else "text_delta")
        async with draining(server, 0.0):
            pass
        ended = await stream.completed()
        assert ended.outcome == turn_pb2.TURN_OUTCOME_FAILED
        error = failure(ended.error)
        assert error.reason == "DRAINING"
        assert (error.retry_after_s is None) == (step is CALL), "a tool may have had effects"
        shut_down(await stream.ended())
        assert stream.kinds().count("go_away") == 1
        if step is CALL:
            cancel = (await stream.expect("cancel_invocation")).cancel_invocation
            assert cancel.reason == invocation_pb2.INVOCATION_CANCEL_REASON_TURN_ENDED


def service_to_leave(engines: Engines) -> AbstractAsyncContextManager[Service]:
    settings = load_settings(None, {"server": {"port": 0, "drain_s": 20.0}})
    return serve(settings, engines, model=MODEL, on_progress=lambda _stage, _fraction: None)


async def test_leaving_the_service_drains_it() -> None:
    done = asyncio.Event()
    engines = Engines(in_turn([*says("So"), Pause(done), *says(" far.")]))
    leaving = service_to_leave(engines)
    service = await leaving.__aenter__()
    async with connected(service.address) as channel, asyncio.TaskGroup() as group:
        idle, busy = StreamDriver(channel), StreamDriver(channel)
        await idle.open()
        await busy.open()
        await busy.start()
        await busy.expect("text_delta")
        assert await health(channel) == "SERVING"
        left = group.create_task(leaving.__aexit__(None, None, None))
        for stream in (idle, busy):
            away = (await stream.expect("go_away")).go_away
            assert seconds(away.time_left) == 20.0
        assert await health(channel) == "NOT_SERVING"
        assert await health(channel, "") == "SERVING", "the turn still finishes"
        shut_down(await idle.ended())
        assert not left.done()
        done.set()
        assert (await busy.completed()).text == "So far."
        shut_down(await busy.ended())
    assert engines.started[0].closed


async def test_an_engine_that_restarts_during_a_drain_makes_nothing_ready() -> None:
    engines = Engines(in_turn(CALL, says("Warm.")))
    leaving = service_to_leave(engines)
    service = await leaving.__aenter__()
    async with connected(service.address) as channel, asyncio.TaskGroup() as group:
        stream = StreamDriver(channel)
        await stream.open(agent_pb2.OpenConversation(tools=[WEATHER]))
        await stream.start()
        invoke = await stream.invoked()
        group.create_task(leaving.__aexit__(None, None, None))
        await stream.expect("go_away")
        engines.started[0].die()
        await eventually(lambda: len(engines.started) == 2)
        await settle()
        assert service.engines.state is EngineState.READY
        assert await health(channel) == "NOT_SERVING"
        await stream.answer(invoke.invocation_id)
        assert (await stream.completed()).text == "Warm."
        shut_down(await stream.ended())
