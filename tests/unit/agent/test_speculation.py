"""Predicted calls run early, and their results answer the calls that the model makes."""

from __future__ import annotations

import asyncio

import pytest

from precall_service.domain.events import (
    CancelInvocation,
    DiscardReason,
    InvocationCancelReason,
    InvocationCommitted,
    Invoke,
    PredictionConfirmed,
    PredictionDiscarded,
    PredictionReady,
    ResultSource,
    ToolCallCompleted,
    TurnCompleted,
    TurnOutcome,
)
from precall_service.speculation.predictors.early_dispatch import EarlyDispatch
from precall_service.tools.link import HandlerError
from tests.support.agent import agent_on, scripted
from tests.support.clock import settle
from tests.support.scripts import TICK, Pause, calls, says
from tests.support.speculating import (
    BOOK,
    WEATHER,
    Thinking,
    Told,
    first_step,
    proposal,
    story,
    weather,
)

ROME = ("weather", '{"city": "Rome"}')
OSLO = ("weather", '{"city": "Oslo"}')


async def test_a_result_that_is_ready_answers_the_call_at_once() -> None:
    thinking = Thinking()
    steps = [thinking.then(ROME), says("done")]
    async with agent_on(scripted(*steps), predictors=[Told(first_step(weather()))]) as there:
        client = there.open(WEATHER)
        turn = await client.send()
        await there.advance(2)
        await client.answer(0, '"sunny"')
        await there.advance(3)
        assert len(client.of(PredictionReady)) == 1
        assert client.of(PredictionReady)[0].run_time_s == 2
        await thinking.on()
        ending = client.ending(turn)
        assert ending.outcome is TurnOutcome.ANSWERED
        [completed] = client.of(ToolCallCompleted)
        assert completed.source is ResultSource.SPECULATIVE
        assert (completed.result_json, completed.wait_time_s) == ('"sunny"', 0)
        assert completed.time_saved_s == 2
        [confirmed] = client.of(PredictionConfirmed)
        assert confirmed.lead_time_s == 5
        assert confirmed.prediction_id == completed.prediction_id
        assert story(client) == [
            "proposed weather Rome",
            "launched weather Rome",
            "ready weather Rome",
            "confirmed weather Rome",
        ]
        report = ending.report
        assert (report.predictions, report.predictions_confirmed) == (1, 1)
        assert (report.tool_time_hidden_s, report.saved_by_overlap_s) == (2, 2)
        assert (report.tool_time_exposed_s, report.wasted_time_s) == (0, 0)
        [invoke] = client.of(Invoke)
        assert (invoke.call_id, invoke.prediction_id) == ("", confirmed.prediction_id)


async def test_a_call_waits_for_the_run_that_was_started_for_its_prediction() -> None:
    thinking = Thinking()
    steps = [thinking.then(ROME), says("done")]
    async with agent_on(scripted(*steps), predictors=[Told(first_step(weather()))]) as there:
        client = there.open(WEATHER)
        turn = await client.send()
        await there.advance(2)
        await thinking.on()
        [committed] = client.of(InvocationCommitted)
        assert committed.invocation_id == client.of(Invoke)[0].invocation_id
        await there.advance(1)
        await client.answer(0)
        report = client.ending(turn).report
        assert len(client.of(Invoke)) == 1
        assert report.saved_by_overlap_s == 2
        assert report.tool_time_exposed_s == 1
        [completed] = client.of(ToolCallCompleted)
        assert (completed.time_saved_s, completed.wait_time_s) == (2, 1)


async def test_a_wrong_prediction_is_stopped_and_costs_only_its_run() -> None:
    thinking = Thinking()
    steps = [thinking.then(OSLO), says("done")]
    async with agent_on(scripted(*steps), predictors=[Told(first_step(weather()))]) as there:
        client = there.open(WEATHER)
        turn = await client.send()
        await there.advance(2)
        await thinking.on()
        [cancel] = client.of(CancelInvocation)
        assert cancel.reason is InvocationCancelReason.PREDICTION_DISCARDED
        assert cancel.invocation_id == client.of(Invoke)[0].invocation_id
        [discarded] = client.of(PredictionDiscarded)
        assert (discarded.reason, discarded.time_wasted_s) == (DiscardReason.MISMATCH, 2)
        await client.answer(1, '"rain"')
        ending = client.ending(turn)
        assert ending.report.wasted_time_s == 2
        assert ending.report.predictions_confirmed == 0
        assert client.of(ToolCallCompleted)[0].source is ResultSource.COMMITTED


@pytest.mark.parametrize("answered", [True, False])
async def test_a_prediction_of_a_turn_that_makes_no_call_ends_with_it(answered: bool) -> None:
    thinking = Thinking()
    steps = [thinking.then()]
    async with agent_on(scripted(*steps), predictors=[Told(first_step(weather()))]) as there:
        client = there.open(WEATHER)
        turn = await client.send()
        if answered:
            await client.answer(0)
        await thinking.on()
        assert client.ending(turn).outcome is TurnOutcome.ANSWERED
        assert story(client)[-1] == "discarded weather Rome: TURN_ENDED"
        ended = client.events.index(client.of(PredictionDiscarded)[0])
        assert ended < client.events.index(client.of(TurnCompleted)[0])


async def test_only_tools_that_allow_it_run_early() -> None:
    steps = [[TICK, TICK, *calls(("book", '{"city": "Rome"}'))], says("done")]
    told = Told(first_step(proposal("book")))
    async with agent_on(scripted(*steps), predictors=[told]) as there:
        client = there.open(BOOK, WEATHER)
        turn = await client.send()
        [invoke] = client.of(Invoke)
        assert invoke.call_id
        await client.answer(0)
        assert client.ending(turn).outcome is TurnOutcome.ANSWERED
        [discarded] = client.of(PredictionDiscarded)
        assert discarded.reason is DiscardReason.NOT_ELIGIBLE
        assert discarded.call_id == invoke.call_id


async def test_a_failed_early_run_is_run_again() -> None:
    thinking = Thinking()
    steps = [thinking.then(ROME), says("done")]
    async with agent_on(scripted(*steps), predictors=[Told(first_step(weather()))]) as there:
        client = there.open(WEATHER)
        turn = await client.send()
        await client.deliver(HandlerError("Busy", "try later"))
        assert story(client)[-1] == "discarded weather Rome: HANDLER_ERROR"
        await thinking.on()
        await client.answer(1, '"sunny"')
        assert client.ending(turn).outcome is TurnOutcome.ANSWERED
        [completed] = client.of(ToolCallCompleted)
        assert (completed.source, completed.result_json) == (ResultSource.COMMITTED, '"sunny"')


async def test_a_written_call_runs_while_the_model_writes_the_next() -> None:
    writing = Pause(asyncio.Event())
    steps = [[*calls(ROME), writing, *calls(OSLO, first=1), TICK, TICK], says("done")]
    async with agent_on(scripted(*steps), predictors=[EarlyDispatch()]) as there:
        client = there.open(WEATHER)
        turn = await client.send()
        assert len(client.of(Invoke)) == 1
        await there.advance(1)
        await client.answer(0)
        writing.event.set()
        await settle()
        await there.advance(1)
        await client.answer(1)
        report = client.ending(turn).report
        assert [each.source for each in client.of(ToolCallCompleted)] == [
            ResultSource.SPECULATIVE,
            ResultSource.SPECULATIVE,
        ]
        assert report.predictions_confirmed == 2
        # The second call would have taken as long, so the first one's overlap saved nothing.
        assert report.saved_by_overlap_s == 0
