"""A draft model on the wire: it is granted, its predictions are told, and nothing depends on it."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from precall.v1 import agent_pb2, prediction_pb2, tool_pb2, turn_pb2
from precall_service.cli.launch import draft_server
from precall_service.engine.base import EngineStartError
from precall_service.engine.openai.factory import OpenAiEngineFactory
from precall_service.engine.supervisor import EngineState
from precall_service.settings import load_settings
from tests.support.openai_server import (
    OpenAiServer,
    Sent,
    call,
    delta,
    refused,
    streamed,
    whole,
)
from tests.support.scripts import Pause, always, calls, says
from tests.support.stream import (
    WEATHER,
    Engines,
    RunningServer,
    Section,
    StreamDriver,
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


async def ran_early(stream: StreamDriver, gate: asyncio.Event) -> turn_pb2.ToolCallCompleted:
    """The call of a turn, whose handler has run before the gate lets the model write it."""
    invoke = await stream.invoked()
    assert invoke.prediction_id
    gate.set()
    await stream.answer(invoke.invocation_id, '"sunny"')
    completed = await stream.call_completed()
    assert completed.source == turn_pb2.RESULT_SOURCE_SPECULATIVE
    return completed


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
        completed = await ran_early(stream, gate)
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


ROME_CALLED = whole({"content": None, "tool_calls": [call(*ROME, call_id="a")]}, "tool_calls")


def on(server: OpenAiServer, *, streams: bool = False) -> Section:
    """The settings of a draft model on a server."""
    return {
        "draft_model": {
            "model": "tiny",
            "url": server.url,
            "streams": streams,
            "samples": 1,
            "require_calls": True,
            "template_variables": {"enable_thinking": False},
        }
    }


def on_server(server: OpenAiServer, *, streams: bool = False) -> OpenAiEngineFactory:
    section = on(server, streams=streams)
    settings = load_settings(None, {"speculation": section})  # pyright: ignore[reportArgumentType]
    return OpenAiEngineFactory(draft_server(settings, server.url))


async def asked_early(answer: Sent, *, streams: bool) -> dict[str, Any]:
    """What a server is asked whose answer predicts the call of a turn, which then runs early."""
    gate = asyncio.Event()
    script = [[Pause(gate), *calls(ROME)], says("Sunny.")]
    elsewhere = OpenAiServer([answer])
    async with (
        elsewhere.running(),
        running_server(
            script,
            draft_factory=on_server(elsewhere, streams=streams),
            speculation=on(elsewhere, streams=streams),
        ) as server,
    ):
        await draft_state(server, EngineState.READY)
        stream = await server.opened(SAFE)
        await stream.start()
        await ran_early(stream, gate)
        await stream.completed()
        await stream.close()
    return elsewhere.asked[0]


async def test_a_draft_model_may_be_on_another_server() -> None:
    asked = await asked_early(ROME_CALLED, streams=False)
    assert not asked.get("stream"), "servers stream the arguments of some models wrongly"
    assert [tool["function"]["name"] for tool in asked["tools"]] == ["weather"]
    assert (asked["temperature"], asked["max_tokens"]) == (0.7, 256)
    assert asked["tool_choice"] == "required"
    assert asked["chat_template_kwargs"] == {"enable_thinking": False}


async def test_a_streamed_sample_predicts_a_call_before_it_ends() -> None:
    first, second = call(*ROME, call_id="a"), call("weather", "", index=1, call_id="b")
    parts = delta(tool_calls=[first]), delta(tool_calls=[second])
    asked = await asked_early(streamed(*parts, hangs=True), streams=True)
    assert asked["stream"]


@pytest.mark.parametrize(
    "answer",
    [
        refused("429 Too Many Requests", "slow down", "Retry-After: 60"),
        refused("500 Internal Server Error", "oops"),
        replace(ROME_CALLED, body=b"<html>"),
        replace(ROME_CALLED, hangs=True, body=b""),
        whole({"content": None, "tool_calls": [call("delete", "{}", call_id="a")]}, "tool_calls"),
    ],
    ids=["busy", "broken", "garbage", "silent", "another tool"],
)
async def test_a_server_that_fails_costs_its_predictions_alone(answer: Sent) -> None:
    elsewhere = OpenAiServer([answer])
    gate = asyncio.Event()
    script = always([Pause(gate), *says("Hi.")])
    async with (
        elsewhere.running(),
        running_server(script, draft_factory=on_server(elsewhere), speculation=ONE) as server,
    ):
        await draft_state(server, EngineState.READY)
        stream = await server.opened(SAFE)
        await stream.start()
        await eventually(lambda: bool(elsewhere.asked))
        gate.set()
        ended = await stream.completed()
        assert ended.outcome == turn_pb2.TURN_OUTCOME_ANSWERED
        assert ended.report.predictions == 0
        await stream.close()


async def test_a_server_that_starts_later_is_used_then() -> None:
    elsewhere = OpenAiServer([ROME_CALLED], models_status="503 Service Unavailable")
    async with (
        elsewhere.running(),
        running_server(
            always(says("Hi.")), draft_factory=on_server(elsewhere), speculation=ONE
        ) as server,
    ):
        await draft_state(server, EngineState.FAILED)
        await answered(server)
        elsewhere.models_status = "200 OK"
        server.clock.advance(60)
        await draft_state(server, EngineState.READY)


@pytest.mark.parametrize(
    ("status", "setting"), [("401 Unauthorized", "api_key"), ("500 Internal Server Error", "url")]
)
async def test_what_is_told_of_a_server_names_the_settings_of_the_draft_model(
    status: str, setting: str, caplog: pytest.LogCaptureFixture
) -> None:
    elsewhere = OpenAiServer(models_status=status)
    async with (
        elsewhere.running(),
        running_server(
            always(says("Hi.")), draft_factory=on_server(elsewhere), speculation=ONE
        ) as server,
    ):
        await eventually(lambda: f"speculation.draft_model.{setting}" in caplog.text)
        await answered(server)
