"""A draft model on the wire: it is granted, its predictions are told, and nothing depends on it."""

from __future__ import annotations

import asyncio

import pytest

from precall.v1 import agent_pb2, prediction_pb2, tool_pb2, turn_pb2
from precall_service.engine.base import EngineStartError
from precall_service.engine.supervisor import EngineState
from tests.support.scripts import Pause, always, calls, says
from tests.support.stream import (
    WEATHER,
    Engines,
    RunningServer,
    Section,
    eventually,
    health,
    running_server,
)

DRAFT_MODEL = prediction_pb2.PREDICTOR_DRAFT_MODEL
SAFE = tool_pb2.Tool(
    name="weather",
    version="7",
    input_schema_json=WEATHER.input_schema_json,
    effects=tool_pb2.ToolEffects(read_only=True, speculation_safe=True),
)
ROME = ("weather", '{"city": "Rome"}')
ONE: Section = {"draft_model": {"model": "small", "samples": 1}}


def drafting() -> Engines:
    return Engines(always(calls(ROME)))


async def answered(server: RunningServer) -> None:
    """Takes a turn that makes no call."""
    stream = await server.opened()
    await stream.start()
    assert (await stream.completed()).outcome == turn_pb2.TURN_OUTCOME_ANSWERED
    await stream.close()


async def draft_state(server: RunningServer, state: EngineState) -> None:
    engines = server.service.draft_engines
    assert engines is not None
    await eventually(lambda: engines.state is state)


async def test_a_prediction_of_the_draft_model_is_told_and_confirmed() -> None:
    gate = asyncio.Event()
    script = [[Pause(gate), *calls(ROME)], says("Sunny.")]
    async with running_server(script, draft_factory=drafting(), speculation=ONE) as server:
        await draft_state(server, EngineState.READY)
        stream = server.stream()
        wish = prediction_pb2.SpeculationSettings(predictors=[DRAFT_MODEL], send_events=True)
        opened = await stream.open(agent_pb2.OpenConversation(tools=[SAFE], speculation=wish))
        assert list(opened.speculation.predictors) == [DRAFT_MODEL]
        await stream.start()
        invoke = await stream.invoked()
        assert invoke.prediction_id
        gate.set()
        await stream.answer(invoke.invocation_id, '"sunny"')
        completed = await stream.call_completed()
        assert completed.source == turn_pb2.RESULT_SOURCE_SPECULATIVE
        report = (await stream.completed()).report
        assert report.predictions_confirmed == 1
        told = dict(zip(stream.kinds(), stream.events, strict=True))
        assert told["prediction_confirmed"].prediction_confirmed.call_id == completed.call_id
        await stream.close()


async def test_the_service_is_ready_before_the_draft_model() -> None:
    drafts = drafting()
    drafts.hold()
    async with running_server(always(says("Hi.")), draft_factory=drafts, speculation=ONE) as server:
        assert await health(server.channel) == "SERVING"
        await draft_state(server, EngineState.STARTING)
        await answered(server)


async def test_a_draft_model_that_dies_leaves_the_service_ready() -> None:
    drafts = drafting()
    async with running_server(always(says("Hi.")), draft_factory=drafts, speculation=ONE) as server:
        await draft_state(server, EngineState.READY)
        drafts.hold()
        drafts.started[0].die()
        await draft_state(server, EngineState.RESTARTING)
        assert await health(server.channel) == "SERVING"
        await answered(server)
        drafts.release()
        server.clock.advance(60)
        await draft_state(server, EngineState.READY)
        assert len(server.engines.started) == 1


async def test_a_draft_model_that_cannot_start_is_not_used(
    caplog: pytest.LogCaptureFixture,
) -> None:
    drafts = drafting()
    drafts.failure = EngineStartError("there is no such parser")
    async with running_server(always(says("Hi.")), draft_factory=drafts, speculation=ONE) as server:
        await draft_state(server, EngineState.FAILED)
        assert "the engine of the draft model is not used: there is no such parser" in caplog.text
        assert await health(server.channel) == "SERVING"
        await answered(server)
