"""The engine's states as clients and probes see them: start, service, death, restart, giving up."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import grpc
import grpc.aio
import pytest

from precall.v1 import agent_pb2, turn_pb2
from precall_service.engine.base import EngineLoad, EngineStartError
from precall_service.transport.server import AddressInUseError
from tests.support.scripted_template import prompt_text
from tests.support.scripts import Pause, Script, always, calls, in_turn, says
from tests.support.stream import (
    MODEL,
    WEATHER,
    Engines,
    RunningServer,
    StreamDriver,
    connected,
    eventually,
    health,
    health_becomes,
    running_server,
    server_info,
)
from tests.support.wire import Failure, failure, seconds

HELLO = always(says("Hello."))
CALL = calls(("weather", '{"city":"Rome"}'))


def dying() -> Script:
    """A script of three steps: an answer, a step that never ends, and the next engine's answer."""
    return in_turn(says("One."), [*says("So far"), Pause(asyncio.Event())], says("Three."))


def unavailable(ended: turn_pb2.TurnCompleted) -> Failure:
    assert ended.outcome == turn_pb2.TURN_OUTCOME_FAILED
    error = failure(ended.error)
    assert error.reason == "ENGINE_UNAVAILABLE"
    assert error.code is grpc.StatusCode.UNAVAILABLE
    return error


async def dead_engine(server: RunningServer) -> None:
    """Kills the engine. The next start waits until `release`."""
    server.engines.hold()
    server.engine.die()
    await health_becomes(server.channel, "NOT_SERVING")


async def revived(server: RunningServer, after_s: float = 0.0) -> None:
    """Lets the next engine start after the supervisor's wait of `after_s`."""
    server.engines.release()
    started = len(server.engines.started)
    await eventually(lambda: server.clock.pending > 0)
    server.clock.advance(after_s)
    await eventually(lambda: len(server.engines.started) > started)
    await health_becomes(server.channel, "SERVING")


async def test_a_turn_in_flight_fails_retryably_and_the_conversation_goes_on() -> None:
    async with running_server(dying()) as server:
        stream = await server.opened()
        await stream.ask("First?")
        await stream.start("Second?", "t2")
        await stream.expect("text_delta")
        await dead_engine(server)
        error = unavailable(await stream.completed("t2"))
        assert error.retry_after_s is not None
        await revived(server)
        assert (await stream.ask("Second?", "t3")).text == "Three."
        prompt = prompt_text(server.engine.prompts[0])
        assert prompt.index("First?") < prompt.index("One.") < prompt.index("Second?")
        assert prompt.count("Second?") == 1
        assert "So far" not in prompt
        await stream.close()


async def test_during_a_restart_turns_fail_retryably_and_streams_stay_open() -> None:
    async with running_server(HELLO) as server:
        stream = await server.opened()
        await dead_engine(server)
        error = unavailable(await stream.ask())
        assert error.retry_after_s is not None
        other = await server.opened()
        unavailable(await other.ask())
        assert (await server.info()).engine_state == agent_pb2.ENGINE_STATE_RESTARTING
        assert await health(server.channel, "") == "SERVING", "the process is alive"
        await revived(server)
        assert (await server.info()).engine_state == agent_pb2.ENGINE_STATE_READY
        assert (await stream.ask(turn_id="t2")).text == "Hello."
        assert (await other.ask(turn_id="t2")).text == "Hello."
        await stream.close()
        await other.close()


async def test_a_turn_whose_tools_run_survives_the_engine() -> None:
    async with running_server(in_turn(CALL, says("Warm."))) as server:
        stream = await server.opened(WEATHER)
        await stream.start()
        invoke = await stream.invoked()
        await dead_engine(server)
        await revived(server)
        await stream.answer(invoke.invocation_id, '"30 C"')
        assert (await stream.completed()).text == "Warm."
        assert "30 C" in prompt_text(server.engine.prompts[0])
        await stream.close()


async def test_a_failed_restart_is_repeated() -> None:
    async with running_server(HELLO, engine={"restart_backoff_first_s": 3.0}) as server:
        stream = await server.opened()
        await dead_engine(server)
        server.engines.failure = RuntimeError("out of memory, this time")
        server.engines.release()
        server.clock.advance(0.0)
        await eventually(lambda: server.engines.failure is None)
        server.clock.advance(2.9)
        assert len(server.engines.started) == 1
        await revived(server, after_s=0.2)
        assert (await stream.ask()).text == "Hello."
        await stream.close()


async def test_a_restart_without_enough_memory_is_repeated_too() -> None:
    async with running_server(HELLO) as server:
        stream = await server.opened()
        await dead_engine(server)
        server.engines.failure = EngineStartError("the dead engine still holds its memory")
        server.engines.release()
        server.clock.advance(0.0)
        await eventually(lambda: server.engines.failure is None)
        error = unavailable(await stream.ask())
        assert error.retry_after_s is not None
        assert "memory" not in error.message, "the cause is for the operator only"
        assert (await server.info()).engine_state == agent_pb2.ENGINE_STATE_RESTARTING
        assert await health(server.channel, "") == "SERVING"
        await revived(server, after_s=1.0)
        assert (await stream.ask(turn_id="t2")).text == "Hello."
        await stream.close()


@asynccontextmanager
async def starting_server(engines: Engines) -> AsyncGenerator[grpc.aio.Channel]:
    """A channel to a server whose engine is starting; the server serves after `release`."""
    engines.hold()
    port = free_port()
    done = asyncio.Event()

    async def serve() -> None:
        async with running_server(engines=engines, server={"port": port}):
            await done.wait()

    async with asyncio.TaskGroup() as group:
        group.create_task(serve())
        async with connected(f"127.0.0.1:{port}") as channel:
            yield channel
        engines.release()
        done.set()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port


async def test_while_the_engine_starts_the_server_answers() -> None:
    engines = Engines(HELLO)
    async with starting_server(engines) as channel:
        info = await server_info(channel)
        assert info.engine_state == agent_pb2.ENGINE_STATE_STARTING
        assert (info.model, info.engine) == (MODEL, "")
        assert list(info.capabilities) == [  # they need no model
            agent_pb2.CAPABILITY_TOOL_CACHE,
            agent_pb2.CAPABILITY_SPECULATION,
        ]
        assert info.limits.frame_bytes_max
        assert info.limits.context_tokens_max == 0, "not known yet"
        assert await health(channel) == "NOT_SERVING"
        assert await health(channel, "") == "SERVING"
        assert await health(channel, "precall.v1.ToolCacheService") == "SERVING"
        stream = StreamDriver(channel)
        await stream.open()
        assert unavailable(await stream.ask()).retry_after_s is not None
        engines.release()
        await health_becomes(channel, "SERVING")
        assert (await stream.ask(turn_id="t2")).text == "Hello."
        await stream.close()


async def test_an_engine_that_cannot_start_ends_the_service() -> None:
    engines = Engines(HELLO)
    engines.failure = EngineStartError("the weights are missing")
    with pytest.raises(EngineStartError, match="weights are missing"):
        async with running_server(engines=engines):
            raise AssertionError("it must not start")


async def test_a_taken_port_is_reported_before_the_engine_starts() -> None:
    engines = Engines(HELLO)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
        with pytest.raises(AddressInUseError, match=f"127.0.0.1:{port}.*--port"):
            async with running_server(engines=engines, server={"port": port}):
                raise AssertionError("it must not start")
    assert not engines.started


async def test_server_info_describes_the_server() -> None:
    async with running_server(HELLO) as server:
        idle = await server.info()
        assert idle.version
        assert idle.model == MODEL
        assert idle.engine == "scripted"
        assert idle.engine_state == agent_pb2.ENGINE_STATE_READY
        assert list(idle.capabilities) == [
            agent_pb2.CAPABILITY_TOOL_CALLS,
            agent_pb2.CAPABILITY_STRUCTURED_CALLS,
            agent_pb2.CAPABILITY_REASONING,
            agent_pb2.CAPABILITY_DRAFTS,
            agent_pb2.CAPABILITY_TOOL_CACHE,
            agent_pb2.CAPABILITY_SPECULATION,
        ]
        assert idle.limits.context_tokens_max == 8192
        server.clock.advance(12.5)
        assert seconds((await server.info()).uptime) == 12.5


async def test_clients_do_not_learn_the_load_that_others_make() -> None:
    never = asyncio.Event()
    async with running_server(in_turn([*says("So far"), Pause(never)])) as server:
        stream = await server.opened()
        await stream.start()
        await stream.expect("text_delta")
        assert not (await server.info()).HasField("load")
        stream.call.cancel()


async def test_an_operator_can_let_clients_know_the_load() -> None:
    never = asyncio.Event()
    script = in_turn([*says("So far"), Pause(never)])
    async with running_server(script, server={"info_counts": True}) as server:
        assert (await server.info()).load == agent_pb2.EngineLoad(turns_max=64)
        stream = await server.opened()
        await stream.start()
        await stream.expect("text_delta")
        load = (await server.info()).load
        assert (load.running_sequences, load.admitted_turns, load.waiting_turns) == (1, 1, 0)
        assert 0 < load.kv_cache_usage < 1
        stream.call.cancel()


async def test_an_engine_that_does_not_answer_delays_no_client(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = asyncio.Event()

    async def never() -> EngineLoad:
        asked.set()
        await asyncio.Event().wait()
        raise AssertionError

    async with running_server(HELLO, server={"info_counts": True}) as server:
        await eventually(lambda: server.engine.progress > 0)  # it was asked for a sign of life
        monkeypatch.setattr(server.engine, "load", never)
        asking = asyncio.create_task(server.info())
        await asked.wait()
        server.clock.advance(2.0)
        info = await asking
        assert info.engine_state == agent_pb2.ENGINE_STATE_READY
        assert info.load == agent_pb2.EngineLoad(turns_max=64)
        monkeypatch.undo()


async def looked(server: RunningServer) -> None:
    """Lets so much time pass that the supervisor looks at the engine once."""
    waits = server.clock.pending
    server.clock.advance(1.0)
    await eventually(lambda: server.clock.pending >= waits or server.engine.killed)


async def test_a_silent_engine_is_not_ready_and_its_turns_end_when_it_is_killed() -> None:
    limits = {"hung_notice_s": 10.0, "hung_restart_s": 20.0}
    async with running_server(dying(), engine=limits) as server:
        stream = await server.opened()
        await stream.ask("First?")
        hung = server.engine
        await stream.start("Second?", "t2")
        await stream.expect("text_delta")
        hung.silent = True
        for _ in range(12):
            await looked(server)
        await health_becomes(server.channel, "NOT_SERVING")
        server.engines.hold()
        while not hung.killed:
            await looked(server)
        assert unavailable(await stream.completed("t2")).retry_after_s
        await revived(server)
        assert (await stream.ask("Second?", "t3")).text == "Three."
        await stream.close()


async def test_granted_limits_are_those_of_the_settings() -> None:
    async with running_server(
        HELLO,
        server={"frame_bytes_max": 5001},
        conversations={
            "text_bytes_max": 5002,
            "messages_max": 3,
            "turn_steps_max": 4,
            "turn_tokens_max": 5,
            "turn_duration_max_s": 6.5,
        },
        tools={
            "tools_max": 7,
            "schema_bytes_max": 5003,
            "description_bytes_max": 5004,
            "result_bytes_max": 5005,
            "timeout_max_s": 8.25,
        },
    ) as server:
        limits = (await server.info()).limits
        assert limits.frame_bytes_max == 5001
        assert limits.text_bytes_max == 5002
        assert limits.messages_max == 3
        assert limits.turn_limits_max.max_steps == 4
        assert limits.turn_limits_max.max_turn_tokens == 5
        assert seconds(limits.turn_limits_max.max_duration) == 6.5
        assert limits.tools_max == 7
        assert limits.schema_bytes_max == 5003
        assert limits.description_bytes_max == 5004
        assert limits.result_bytes_max == 5005
        assert seconds(limits.tool_timeout_max) == 8.25
