"""A tool that is updated or withdrawn while it runs early answers no call with that run."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from precall_service.domain.events import (
    CancelInvocation,
    DiscardReason,
    Invoke,
    PredictionLaunched,
    ResultSource,
    ToolCallCompleted,
    ToolCallOutcome,
    TurnOutcome,
)
from precall_service.speculation.base import Moment
from precall_service.speculation.predictors.early_dispatch import EarlyDispatch
from precall_service.tools.declarations import ToolProposal
from tests.support.agent import agent_on, scripted
from tests.support.clock import settle
from tests.support.scripts import Pause, calls, says, thinks
from tests.support.speculating import (
    READ,
    WEATHER,
    StoreSwitch,
    Thinking,
    Told,
    answer_again,
    answers,
    both_ways,
    first_step,
    reading,
    reasons,
    story,
    weather,
)

ROME, OSLO = ("weather", '{"city": "Rome"}'), ("weather", '{"city": "Oslo"}')
READ_A = ("read", '{"path": "/a"}')
RAN, EXPIRED = ResultSource.COMMITTED, DiscardReason.EXPIRED


@both_ways
@pytest.mark.parametrize("version", ["1", "2"], ids=["same version", "new version"])
@pytest.mark.parametrize("answered", [True, False])
async def test_a_tool_that_was_updated_runs_again(
    tool: ToolProposal, version: str, answered: bool
) -> None:
    thinking = Thinking()
    told = Told(first_step(reading()))
    async with agent_on(scripted(thinking.then(READ_A), says("done")), predictors=[told]) as there:
        client = there.open(tool)
        await client.send()
        if answered:
            await client.answer(0, '"old"')
        await client.conversation.register_tools(0, [replace(tool, version=version)])
        await thinking.on()
        assert reasons(client) == [EXPIRED if version == "1" else DiscardReason.MISMATCH]
        assert len(client.of(CancelInvocation)) == (not answered)
        assert client.of(Invoke)[-1].tool_version == version
        await answer_again(client)
        assert answers(client) == [(RAN, '"new"')]


@both_ways
async def test_a_tool_that_is_updated_while_the_call_asks_the_store_runs_again(
    tool: ToolProposal,
) -> None:
    thinking = Thinking()
    told = Told(first_step(reading()))
    async with agent_on(scripted(thinking.then(READ_A), says("done")), predictors=[told]) as there:
        switch = StoreSwitch(there)
        client = there.open(tool)
        await client.send()
        await client.answer(0, '"old"')
        switch.held = asyncio.Event()
        await thinking.on()
        await client.conversation.register_tools(0, [replace(tool, version="2")])
        switch.held.set()
        await settle()
        assert client.of(Invoke)[-1].tool_version == "2"
        await answer_again(client)
        assert answers(client) == [(RAN, '"new"')]


async def test_a_tool_that_was_withdrawn_answers_no_call() -> None:
    thinking = Thinking()
    told = Told(first_step(weather()))
    async with agent_on(scripted(thinking.then(ROME), says("done")), predictors=[told]) as there:
        client = there.open(WEATHER)
        await client.send()
        await client.answer(0, '"old"')
        await client.conversation.withdraw_tools(0, ["weather"])
        await thinking.on()
        assert len(reasons(client)) == 1
        [completed] = client.of(ToolCallCompleted)
        assert completed.outcome is not ToolCallOutcome.RESULT
        assert len(client.of(Invoke)) == 1


async def test_an_early_run_that_waits_for_a_slot_does_not_start_with_an_updated_tool() -> None:
    gate = Pause(asyncio.Event())
    single = replace(READ, max_concurrency=1)
    steps = [[*calls(READ_A), *calls(("read", '{"path": "/b"}'), first=1), gate], says("done")]
    async with agent_on(scripted(*steps), predictors=[EarlyDispatch()]) as there:
        client = there.open(single)
        await client.send()
        assert len(client.of(PredictionLaunched)) == 2
        assert len(client.of(Invoke)) == 1, "the other one waits"
        await client.conversation.register_tools(0, [replace(single, version="2")])
        await client.answer(0)
        assert story(client)[-1] == "discarded read /b: EXPIRED"
        assert len(client.of(Invoke)) == 1
        assert there.speculation.records.of("ann").tool("read").failures == 0
        gate.event.set()
        await settle()
        for result in ("1", "2"):
            await answer_again(client, result)
        assert answers(client) == [(RAN, "1"), (RAN, "2")]


@both_ways
async def test_a_claimed_run_that_waits_for_a_slot_runs_again_if_its_tool_is_updated(
    tool: ToolProposal,
) -> None:
    gate = Pause(asyncio.Event())
    single = replace(tool, max_concurrency=1)
    steps = [[*calls(READ_A), *calls(("read", '{"path": "/b"}'), first=1), gate], says("done")]
    async with agent_on(scripted(*steps), predictors=[EarlyDispatch()]) as there:
        client = there.open(single)
        turn = await client.send()
        gate.event.set()
        await settle()
        assert story(client)[-2:] == ["confirmed read /a", "confirmed read /b"]
        await client.conversation.register_tools(0, [replace(single, version="2")])
        await client.answer(0, "1")
        again = client.of(Invoke)[-1]
        assert again.call_id
        assert again.tool_version == "2"
        await client.answer(-1, "2")
        assert client.ending(turn).outcome is TurnOutcome.ANSWERED
        assert answers(client) == [(ResultSource.SPECULATIVE, "1"), (RAN, "2")]


async def test_a_prediction_is_of_the_tool_as_it_is_then() -> None:
    thinking, reasoning = Thinking(), Pause(asyncio.Event())
    told = Told(first_step(reading()), moments=(Moment.REASONED,))
    steps = [[*thinks("hm"), reasoning, *thinks("x" * 24), *thinking.then(READ_A)], says("done")]
    async with agent_on(scripted(*steps), predictors=[told]) as there:
        client = there.open(READ)
        turn = await client.send()
        await client.conversation.register_tools(0, [replace(READ, version="2")])
        reasoning.event.set()
        await settle()
        [invoke] = client.of(Invoke)
        assert (invoke.call_id, invoke.tool_version) == ("", "2")
        await client.answer(0)
        await thinking.on()
        assert client.ending(turn).report.predictions_confirmed == 1


async def test_a_tool_that_was_updated_to_be_unsafe_does_not_run_early() -> None:
    thinking, reasoning = Thinking(), Pause(asyncio.Event())
    told = Told(first_step(reading()), moments=(Moment.REASONED,))
    steps = [[*thinks("hm"), reasoning, *thinks("x" * 24), *thinking.then()]]
    async with agent_on(scripted(*steps), predictors=[told]) as there:
        client = there.open(READ, WEATHER)
        await client.send()
        unsafe = replace(READ, effects=replace(READ.effects, speculation_safe=False))
        await client.conversation.register_tools(0, [unsafe])
        reasoning.event.set()
        await thinking.on()
        assert reasons(client) == [DiscardReason.NOT_ELIGIBLE]
        assert not client.of(Invoke)


async def test_a_tool_that_was_withdrawn_is_not_predicted() -> None:
    thinking, reasoning = Thinking(), Pause(asyncio.Event())
    told = Told(first_step(reading()), moments=(Moment.REASONED,))
    steps = [[*thinks("hm"), reasoning, *thinks("x" * 24), *thinking.then()]]
    async with agent_on(scripted(*steps), predictors=[told]) as there:
        client = there.open(READ, WEATHER)
        await client.send()
        await client.conversation.withdraw_tools(0, ["read"])
        reasoning.event.set()
        await thinking.on()
        assert len(told.asked) == 1
        assert story(client) == []
