"""Scripts of the fake server with predictions: early runs that are confirmed or discarded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

import precall
from precall import (
    Client,
    Conversation,
    DiscardReason,
    PredictionConfirmed,
    PredictionDiscarded,
    PredictionLaunched,
    PredictionProposed,
    PredictionReady,
    Predictor,
    ResultSource,
    Speculation,
    ToolCallCompleted,
    ToolCallOutcome,
    ToolContext,
)
from precall.testing import Call, Entry, FakeServer, Hang, Parallel, Predict, Say
from tests.clients.helpers import FAST

PARIS: dict[str, Any] = {"city": "Paris"}
ON = Speculation("on", events=True)


@asynccontextmanager
async def speculating(
    *script: Entry, handler: Callable[..., object], speculation: Speculation = ON, **options: Any
) -> AsyncGenerator[tuple[FakeServer, Conversation], None]:
    """Yields a fake server and a conversation whose tool "weather" may run early."""
    declared: dict[str, Any] = {"read_only": True, "speculation_safe": True, **options}
    async with FakeServer(list(script)) as server, Client(server.address, options=FAST) as client:
        client.add_tool(handler, name="weather", **declared)
        async with client.conversation(speculation=speculation) as conversation:
            yield server, conversation


async def events_of(conversation: Conversation) -> list[precall.Event]:
    return [event async for event in conversation.send("?")]


def of_predictions(events: list[precall.Event]) -> list[precall.Event]:
    return [event for event in events if type(event).__name__.startswith("Prediction")]


def discards(events: list[precall.Event]) -> list[tuple[DiscardReason, str]]:
    return [
        (event.reason, event.call_id) for event in events if isinstance(event, PredictionDiscarded)
    ]


def completed(events: list[precall.Event]) -> ToolCallCompleted:
    (event,) = [event for event in events if isinstance(event, ToolCallCompleted)]
    return event


async def sunny(city: str) -> str:
    return f"sunny in {city}"


async def test_the_call_of_a_prediction_is_answered_by_its_run() -> None:
    seen: list[bool] = []

    async def weather(city: str, context: ToolContext) -> str:
        seen.append(context.speculative)
        return await sunny(city)

    predicted = Predict("weather", PARIS, Predictor.FORK, confidence=0.5, wait=True)
    script = (predicted, Call("weather", PARIS), Say("Sunny."))
    async with speculating(*script, handler=weather) as (server, conversation):
        events = await events_of(conversation)
    proposed, launched, ready, confirmed = of_predictions(events)
    assert isinstance(proposed, PredictionProposed)
    assert (proposed.tool_name, proposed.arguments) == ("weather", PARIS)
    assert (proposed.predictor, proposed.confidence, proposed.depth) == (Predictor.FORK, 0.5, 1)
    assert isinstance(launched, PredictionLaunched)
    assert isinstance(ready, PredictionReady)
    assert isinstance(confirmed, PredictionConfirmed)
    assert confirmed.lead_time_s >= ready.run_time_s > 0
    ended = completed(events)
    assert (ended.source, ended.call_id) == (ResultSource.SPECULATIVE, confirmed.call_id)
    assert (ended.prediction_id, ended.result) == (proposed.prediction_id, "sunny in Paris")
    assert ended.time_saved_s == pytest.approx(ready.run_time_s)
    assert seen == [True]  # it ran once, early
    assert server.results[0].value == "sunny in Paris"
    report = events[-1]
    assert isinstance(report, precall.TurnCompleted)
    assert report.report.saved_by_overlap_s == report.report.tool_time_hidden_s > 0


async def test_a_handler_may_wait_for_the_call() -> None:
    async def weather(city: str, context: ToolContext) -> list[object]:
        assert context.speculative
        await context.committed()
        await context.progress("the costly part")
        return [context.speculative, context.call_id]

    script = (Predict("weather", PARIS), Call("weather", PARIS), Say("Sunny."))
    async with speculating(*script, handler=weather) as (_, conversation):
        events = await events_of(conversation)
    confirmed = of_predictions(events)[-1]
    assert isinstance(confirmed, PredictionConfirmed)  # the run was not ready before
    assert completed(events).result == [False, confirmed.call_id]
    said = [event.call_id for event in events if isinstance(event, precall.ToolCallProgress)]
    assert said == [confirmed.call_id]


async def test_a_synchronous_handler_may_wait_for_the_call() -> None:
    def weather(city: str, context: ToolContext) -> str | None:
        return city if context.committed_from_thread() else None

    script = (Predict("weather", PARIS), Call("weather", PARIS), Say("Sunny."))
    async with speculating(*script, handler=weather) as (_, conversation):
        assert completed(await events_of(conversation)).result == "Paris"


@pytest.mark.parametrize("step", [Say("It is Monday."), Call("weather", {"city": "Rome"})])
async def test_a_prediction_that_does_not_come_true_is_discarded(step: Entry) -> None:
    ended: list[str] = []

    async def weather(city: str, context: ToolContext) -> str:
        await context.progress("waiting for the model")
        try:
            await context.committed()
        except asyncio.CancelledError:
            ended.append(city)
            raise
        return await sunny(city)

    predicted = Predict("weather", PARIS, wait=True)
    async with speculating(predicted, step, handler=weather) as (_, conversation):
        events = await events_of(conversation)
        assert discards(events) == [(DiscardReason.MISMATCH, "")]
        assert ended == ["Paris"]
        report = events[-1]
        assert isinstance(report, precall.TurnCompleted)
        assert report.report.wasted_time_s > 0


async def test_a_prediction_can_be_discarded_although_the_model_makes_the_call() -> None:
    runs: list[bool] = []

    async def weather(city: str, context: ToolContext) -> str:
        runs.append(context.speculative)
        return await sunny(city)

    stale = Predict("weather", PARIS, wait=True, discard=DiscardReason.STALE_RESOURCE)
    script = (stale, Call("weather", PARIS), Say("Sunny."))
    async with speculating(*script, handler=weather) as (_, conversation):
        events = await events_of(conversation)
    assert discards(events) == [(DiscardReason.STALE_RESOURCE, "")]
    assert completed(events).source is ResultSource.COMMITTED
    assert runs == [True, False]


@pytest.mark.parametrize(
    ("speculation", "options", "reason"),
    [
        (Speculation("shadow", events=True), {}, DiscardReason.SHADOW),
        (ON, {"read_only": False}, DiscardReason.NOT_ELIGIBLE),
        (ON, {"speculation_safe": False}, DiscardReason.NOT_ELIGIBLE),
        (ON, {"open_world": True}, DiscardReason.NOT_ELIGIBLE),
    ],
)
async def test_nothing_runs_early_that_must_not(
    speculation: Speculation, options: dict[str, Any], reason: DiscardReason
) -> None:
    async def weather(city: str, context: ToolContext) -> bool:
        return context.speculative

    script = (
        Predict("weather", PARIS, wait=True),
        Predict("weather", {"city": "Rome"}),
        Call("weather", PARIS),
        Say("Sunny."),
    )
    async with speculating(*script, handler=weather, speculation=speculation, **options) as (
        _,
        conversation,
    ):
        events = await events_of(conversation)
    ended = completed(events)
    assert (ended.result, ended.source) == (False, ResultSource.COMMITTED)
    assert discards(events) == [(reason, ended.call_id), (DiscardReason.MISMATCH, "")]


@pytest.mark.parametrize(
    "speculation",
    [Speculation("off", events=True), Speculation("on", predictors=["fork"], events=True)],
)
async def test_without_its_predictor_nothing_is_predicted(speculation: Speculation) -> None:
    script = (Predict("weather", PARIS), Call("weather", PARIS), Say("Sunny."))
    async with speculating(*script, handler=sunny, speculation=speculation) as (_, conversation):
        events = await events_of(conversation)
    assert of_predictions(events) == []
    assert completed(events).source is ResultSource.COMMITTED


async def fails(city: str) -> str:
    raise LookupError(city)


async def hangs(city: str) -> None:
    await asyncio.get_running_loop().create_future()


@pytest.mark.parametrize(
    ("handler", "options", "reason", "outcome"),
    [
        (fails, {}, DiscardReason.HANDLER_ERROR, ToolCallOutcome.ERROR),
        (hangs, {"timeout_s": 0.05}, DiscardReason.HANDLER_TIMEOUT, ToolCallOutcome.TIMEOUT),
    ],
)
async def test_a_run_that_fails_early_is_repeated_for_the_call(
    handler: Callable[..., object],
    options: dict[str, Any],
    reason: DiscardReason,
    outcome: ToolCallOutcome,
) -> None:
    script = (Predict("weather", PARIS, wait=True), Call("weather", PARIS), Say("Hm."))
    async with speculating(*script, handler=handler, **options) as (_, conversation):
        events = await events_of(conversation)
    assert discards(events) == [(reason, "")]
    assert completed(events).outcome is outcome


async def test_a_run_that_fails_after_the_call_fails_the_call() -> None:
    async def weather(city: str, context: ToolContext) -> str:
        await context.committed()
        raise LookupError(city)

    script = (Predict("weather", PARIS), Call("weather", PARIS), Say("Hm."))
    async with speculating(*script, handler=weather) as (server, conversation):
        events = await events_of(conversation)
    assert discards(events) == []
    assert completed(events).outcome is ToolCallOutcome.ERROR
    assert server.results[0].error_type == "LookupError"


async def test_parallel_calls_are_predicted_one_by_one() -> None:
    async def weather(city: str, context: ToolContext) -> list[object]:
        return [city, bool(context.prediction_id)]

    cities = [Call("weather", {"city": city}) for city in ("Paris", "Rome")]
    script = (Predict("weather", PARIS, wait=True), Parallel(cities), Say("Sunny."))
    async with speculating(*script, handler=weather) as (server, conversation):
        await conversation.ask("?")
    assert [result.value for result in server.results] == [["Paris", True], ["Rome", False]]


@pytest.mark.parametrize(
    ("ending", "reason"), [(Hang(), DiscardReason.CANCELLED), (None, DiscardReason.TURN_ENDED)]
)
async def test_the_end_of_the_turn_discards_what_is_open(
    ending: Entry | None, reason: DiscardReason
) -> None:
    script = [Predict("weather", PARIS), *([ending] if ending else [])]
    async with speculating(*script, handler=hangs) as (_, conversation):
        turn = conversation.send("?")
        events: list[precall.Event] = []
        async for event in turn:
            events.append(event)
            if isinstance(event, precall.StepStarted):
                await turn.cancel()
    assert discards(events) == [(reason, "")]
    assert isinstance(events[-1], precall.TurnCompleted)


async def test_a_prediction_of_a_tool_that_is_not_there_is_a_mistake() -> None:
    async with speculating(Predict("wether"), handler=sunny) as (_, conversation):
        with pytest.raises(
            precall.ServerError, match=r"calls 'wether', .* its tools were: weather"
        ):
            await conversation.ask("?")


@pytest.mark.parametrize(
    ("predicted", "kind", "says"),
    [
        (Predict("a", {"b": {1}}), ValueError, "the arguments of 'a': .*set is not JSON"),  # pyright: ignore[reportArgumentType]
        (Predict("a", {}, "fork"), TypeError, "'fork' must be a precall.Predictor"),  # pyright: ignore[reportArgumentType]
        (Predict("a", discard="stale"), TypeError, "'stale' must be a precall.DiscardReason"),  # pyright: ignore[reportArgumentType]
        (Predict("a", discard=DiscardReason.UNKNOWN), ValueError, "no server sends UNKNOWN"),
    ],
)
def test_a_prediction_that_cannot_be_played_is_refused_at_once(
    predicted: Predict, kind: type[Exception], says: str
) -> None:
    with pytest.raises(kind, match=f"entry 1 of turn 1: {says}"):
        FakeServer([predicted])
