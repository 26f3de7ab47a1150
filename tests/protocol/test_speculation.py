"""Speculation on the wire: what a conversation is granted, its events, and GetSpeculationStats."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import grpc
import pytest

from precall.v1 import agent_pb2, agent_pb2_grpc, invocation_pb2, prediction_pb2, tool_pb2, turn_pb2
from tests.support.scripts import Item, Pause, calls, says
from tests.support.stream import (
    WAIT_S,
    WEATHER,
    RunningServer,
    Section,
    StreamDriver,
    running_server,
)
from tests.support.wire import seconds

OFF = prediction_pb2.SPECULATION_MODE_OFF
SHADOW = prediction_pb2.SPECULATION_MODE_SHADOW
ISSUE = prediction_pb2.SPECULATION_MODE_ISSUE
CACHE = prediction_pb2.PREDICTOR_CACHE
EARLY_DISPATCH = prediction_pb2.PREDICTOR_EARLY_DISPATCH
HISTORY = prediction_pb2.PREDICTOR_HISTORY
FORK = prediction_pb2.PREDICTOR_FORK
ALL = [CACHE, EARLY_DISPATCH, HISTORY, FORK]
Asked = prediction_pb2.SpeculationSettings

SAFE = tool_pb2.Tool(
    name="weather",
    version="7",
    input_schema_json=WEATHER.input_schema_json,
    effects=tool_pb2.ToolEffects(read_only=True, speculation_safe=True),
)
ROME = ("weather", '{"city": "Rome"}')


async def granted(
    asked: Asked | None, settings: Section | None = None
) -> prediction_pb2.SpeculationSettings:
    async with running_server(speculation=settings or {}) as server:
        stream = server.stream()
        opened = await stream.open(agent_pb2.OpenConversation(speculation=asked))
        await stream.close()
        return opened.speculation


async def test_without_a_wish_a_conversation_gets_what_the_operator_allows() -> None:
    expected = Asked(mode=ISSUE, predictors=ALL, max_depth=2, verify_drafts=True)
    assert await granted(None) == expected
    assert await granted(Asked()) == expected


@pytest.mark.parametrize(
    ("allowed", "asked", "mode"),
    [
        ("issue", OFF, OFF),
        ("issue", SHADOW, SHADOW),
        ("issue", ISSUE, ISSUE),
        ("shadow", ISSUE, SHADOW),
        ("shadow", OFF, OFF),
        ("off", ISSUE, OFF),
        ("off", SHADOW, OFF),
    ],
)
async def test_a_client_can_only_narrow_the_mode(
    allowed: str, asked: prediction_pb2.SpeculationMode.ValueType, mode: int
) -> None:
    assert (await granted(Asked(mode=asked), {"mode": allowed})).mode == mode


@pytest.mark.parametrize(
    ("allowed", "asked", "predictors"),
    [
        (["history", "fork"], [], [HISTORY, FORK]),
        (["history", "fork"], [FORK, CACHE], [FORK]),
        (["history", "fork"], [CACHE], []),
        (["history", "fork"], [99, FORK], [FORK]),
        (["history", "fork"], [prediction_pb2.PREDICTOR_DRAFT_MODEL], []),
        ([], [], []),
    ],
)
async def test_a_client_can_only_narrow_the_predictors(
    allowed: list[str], asked: list[int], predictors: list[int]
) -> None:
    wish = Asked(predictors=[prediction_pb2.Predictor.ValueType(each) for each in asked])
    found = await granted(wish, {"predictors": [*allowed]})
    assert list(found.predictors) == predictors
    assert found.mode == (ISSUE if predictors else OFF), "without predictors, there is nothing"
    assert found.max_depth == (2 if predictors else 0)


@pytest.mark.parametrize(("asked", "depth"), [(0, 3), (1, 1), (3, 3), (4, 3), (2**32 - 1, 3)])
async def test_a_client_can_only_narrow_the_depth(asked: int, depth: int) -> None:
    assert (await granted(Asked(max_depth=asked), {"depth_max": 3})).max_depth == depth


async def test_events_are_granted_to_those_that_ask() -> None:
    assert (await granted(Asked(send_events=True))).send_events


@pytest.mark.parametrize("allowed", [True, False])
@pytest.mark.parametrize("asked", [True, False, None])
async def test_a_client_can_only_narrow_the_drafts(asked: bool | None, *, allowed: bool) -> None:
    found = await granted(Asked(verify_drafts=asked), {"verify_drafts": allowed})
    assert found.verify_drafts == (allowed and asked is not False)
    off = await granted(Asked(mode=OFF, verify_drafts=asked), {"verify_drafts": allowed})
    assert off.verify_drafts is False


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        (Asked(mode=prediction_pb2.SpeculationMode.ValueType(9)), "open.speculation.mode"),
        (
            Asked(predictors=[prediction_pb2.PREDICTOR_UNSPECIFIED, FORK]),
            "open.speculation.predictors",
        ),
    ],
)
async def test_a_wish_that_means_nothing_is_refused(asked: Asked, field: str) -> None:
    async with running_server() as server:
        stream = server.stream()
        await stream.send("open", agent_pb2.OpenConversation(speculation=asked))
        error = await stream.ended()
        assert error is not None
        assert error.code is grpc.StatusCode.INVALID_ARGUMENT
        assert (error.reason, error.field) == ("FIELD_INVALID", field)
        assert field in error.message


# The events of a turn, and what is counted.


def two_calls(gate: asyncio.Event) -> Sequence[Sequence[Item]]:
    """A message with a call, which the model goes on writing until the gate opens."""
    return [[*calls(ROME), Pause(gate), *says("and")], says("Done.")]


async def predicted_turn(
    server: RunningServer, gate: asyncio.Event, *, tenant: str, events: bool = True
) -> tuple[StreamDriver, invocation_pb2.Invoke]:
    """A turn whose call runs while the model still writes."""
    stream = server.stream(("precall-tenant", tenant))
    wish = Asked(send_events=events)
    await stream.open(agent_pb2.OpenConversation(tools=[SAFE], speculation=wish))
    await stream.start()
    invoke = await stream.invoked()
    server.clock.advance(2.0)
    await stream.answer(invoke.invocation_id, '"sunny"')
    if events:
        await stream.expect("prediction_ready")
    gate.set()
    return stream, invoke


async def test_a_client_is_told_what_becomes_of_a_prediction() -> None:
    gate = asyncio.Event()
    async with running_server(two_calls(gate)) as server:
        stream, invoke = await predicted_turn(server, gate, tenant="acme")
        completed = await stream.call_completed()
        report = (await stream.completed()).report
        told = dict(zip(stream.kinds(), stream.events, strict=True))
        proposed = told["prediction_proposed"].prediction_proposed
        launched = told["prediction_launched"].prediction_launched
        ready = told["prediction_ready"].prediction_ready
        confirmed = told["prediction_confirmed"].prediction_confirmed
        assert invoke.call_id == ""
        name = proposed.prediction_id
        assert {invoke.prediction_id, launched.prediction_id, ready.prediction_id, name} == {name}
        assert (proposed.tool_name, proposed.tool_version) == ("weather", "7")
        assert proposed.arguments_json == '{"city":"Rome"}'
        assert (proposed.predictor, proposed.confidence, proposed.depth) == (EARLY_DISPATCH, 1.0, 1)
        assert launched.invocation_id == invoke.invocation_id
        assert seconds(ready.run_time) == 2.0
        assert (confirmed.prediction_id, confirmed.call_id) == (name, completed.call_id)
        assert completed.source == turn_pb2.RESULT_SOURCE_SPECULATIVE
        assert completed.prediction_id == name
        assert seconds(completed.time_saved) == 2.0
        assert (report.predictions, report.predictions_confirmed) == (1, 1)
        assert seconds(report.saved_by_overlap) == 2.0
        await stream.close()


async def test_a_client_that_asks_for_no_events_gets_only_their_effect() -> None:
    gate = asyncio.Event()
    async with running_server(two_calls(gate)) as server:
        stream, _ = await predicted_turn(server, gate, tenant="acme", events=False)
        completed = await stream.call_completed()
        assert completed.source == turn_pb2.RESULT_SOURCE_SPECULATIVE
        assert (await stream.completed()).report.predictions == 1
        assert not [kind for kind in stream.kinds() if kind.startswith("prediction")]
        await stream.close()


async def stats(
    server: RunningServer, *metadata: tuple[str, str]
) -> prediction_pb2.GetSpeculationStatsResponse:
    stub = agent_pb2_grpc.AgentServiceStub(server.channel)
    return await stub.GetSpeculationStats(
        prediction_pb2.GetSpeculationStatsRequest(), metadata=metadata, timeout=WAIT_S
    )


async def test_the_statistics_are_those_of_the_callers_tenant() -> None:
    gate = asyncio.Event()
    async with running_server(two_calls(gate)) as server:
        stream, _ = await predicted_turn(server, gate, tenant="acme")
        await stream.completed()
        await stream.close()
        ours = await stats(server, ("precall-tenant", "acme"))
        [tool] = ours.tools
        assert (tool.tool_name, tool.calls, tool.calls_confirmed) == ("weather", 1, 1)
        assert seconds(tool.run_time) == 2.0
        assert not tool.breaker_open
        [record] = [each for each in tool.predictors if each.proposed]
        assert record.predictor == EARLY_DISPATCH
        assert (record.stage, record.pinned) == (ISSUE, False)
        counts = record.launched, record.resolved, record.matched, record.confirmed
        assert counts == (1, 1, 1, 1)
        assert (seconds(record.saved), seconds(record.wasted)) == (2.0, 0.0)
        assert (seconds(record.would_save), seconds(record.would_waste)) == (0.0, 0.0)
        assert ours.allowance == 1.0
        for others in ([("precall-tenant", "eve")], []):
            assert not (await stats(server, *others)).tools


async def test_a_caller_without_a_tenant_gets_those_of_the_default_tenant() -> None:
    gate = asyncio.Event()
    async with running_server(two_calls(gate)) as server:
        stream, _ = await predicted_turn(server, gate, tenant="default")
        await stream.completed()
        await stream.close()
        assert [tool.tool_name for tool in (await stats(server)).tools] == ["weather"]


async def test_a_fixed_stage_is_shown_as_fixed() -> None:
    gate = asyncio.Event()
    gate.set()
    stages: Section = {"stages": {"weather/early_dispatch": "shadow"}}
    async with running_server(two_calls(gate), speculation=stages) as server:
        stream = server.stream()
        wish = Asked(send_events=True, predictors=[EARLY_DISPATCH])
        await stream.open(agent_pb2.OpenConversation(tools=[SAFE], speculation=wish))
        await stream.start()
        invoke = await stream.invoked()
        assert invoke.call_id
        await stream.answer(invoke.invocation_id)
        await stream.completed()
        discarded = (await stream.expect("prediction_discarded")).prediction_discarded
        assert discarded.reason == prediction_pb2.DISCARD_REASON_SHADOW
        assert discarded.call_id == invoke.call_id
        await stream.close()
        [record] = (await stats(server)).tools[0].predictors
        assert (record.stage, record.pinned, record.launched) == (SHADOW, True, 0)


async def test_a_tenant_that_is_no_name_is_refused() -> None:
    async with running_server() as server:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await stats(server, ("precall-tenant", "no name"))
        assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
