"""A call uses an early result only if nothing has changed since; else its handler runs again."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from precall_service.cache.base import Change, ChangeKind
from precall_service.domain.events import (
    CancelInvocation,
    DiscardReason,
    Invoke,
    PredictionDiscarded,
    PredictionLaunched,
    PredictionReady,
    Predictor,
    ResultSource,
    ToolCallCompleted,
    TurnOutcome,
)
from precall_service.tools.declarations import ToolProposal
from precall_service.tools.link import HandlerError
from tests.support.agent import LIMITS, agent_on, scripted
from tests.support.cached import SHELL, SHELL_CALL, WRITE, write
from tests.support.clock import settle
from tests.support.scripts import calls, says
from tests.support.speculating import (
    ALWAYS,
    READ,
    SAFE,
    WEATHER,
    StoreSwitch,
    Thinking,
    Told,
    answer_again,
    answers,
    both_ways,
    first_step,
    following,
    reading,
    reasons,
    story,
    weather,
)

ROME = ("weather", '{"city": "Rome"}')
OSLO = ("weather", '{"city": "Oslo"}')
READ_A = ("read", '{"path": "/a"}')
RAN, EARLY = ResultSource.COMMITTED, ResultSource.SPECULATIVE
STALE, EXPIRED = DiscardReason.STALE_RESOURCE, DiscardReason.EXPIRED


@both_ways
async def test_a_result_that_a_write_of_another_conversation_made_stale(tool: ToolProposal) -> None:
    thinking = Thinking()
    steps = [thinking.then(READ_A), calls(write("/a")), says("written"), says("done")]
    async with agent_on(scripted(*steps), predictors=[Told(first_step(reading()))]) as there:
        client = there.open(tool)
        turn = await client.send()
        await client.answer(0, '"old"')
        other = there.open(WRITE)
        await other.send()
        await other.answer()
        await thinking.on()
        assert reasons(client) == [STALE]
        await answer_again(client)
        assert client.ending(turn).outcome is TurnOutcome.ANSWERED
        assert answers(client) == [(RAN, '"new"')]


@both_ways
async def test_a_run_that_a_write_overtakes_is_stopped(tool: ToolProposal) -> None:
    thinking = Thinking()
    steps = [thinking.then(READ_A), calls(write("/*")), says("written"), says("done")]
    async with agent_on(scripted(*steps), predictors=[Told(first_step(reading()))]) as there:
        client = there.open(tool)
        await client.send()
        other = there.open(WRITE)
        await other.send()  # the write has not ended, but it may have happened
        await thinking.on()
        assert reasons(client) == [STALE]
        [cancel] = client.of(CancelInvocation)
        assert cancel.invocation_id == client.of(Invoke)[0].invocation_id
        await answer_again(client)
        assert answers(client) == [(RAN, '"new"')]
        await other.answer()


async def test_a_write_elsewhere_changes_nothing() -> None:
    thinking = Thinking()
    steps = [thinking.then(READ_A), calls(write("/b"), SHELL_CALL), says("written"), says("done")]
    async with agent_on(scripted(*steps), predictors=[Told(first_step(reading()))]) as there:
        client = there.open(READ)
        await client.send()
        await client.answer(0, '"old"')
        other = there.open(WRITE, SHELL)
        await other.send()
        await other.answer(0)
        await other.answer(1)
        await thinking.on()
        assert answers(client) == [(EARLY, '"old"')]


@both_ways
@pytest.mark.parametrize("wrote", [write("/a"), SHELL_CALL], ids=["declared", "undeclared"])
async def test_a_result_that_an_earlier_step_made_stale(
    tool: ToolProposal, wrote: tuple[str, str]
) -> None:
    thinking = Thinking()
    steps = [thinking.then(ROME, wrote), thinking.then(READ_A), says("done")]
    told = Told(following(weather(), reading()), moments=ALWAYS)
    async with agent_on(scripted(*steps), predictors=[told]) as there:
        client = there.open(WEATHER, tool, WRITE, SHELL)
        turn = await client.send()
        await client.answer(0)
        await client.answer(1, '"old"')
        assert len(client.of(PredictionReady)) == 2
        await thinking.on(0)
        await client.answer(2)
        await thinking.on(1)
        assert story(client)[-1] == "discarded read /a: STALE_RESOURCE"
        await answer_again(client)
        assert client.ending(turn).outcome is TurnOutcome.ANSWERED
        assert answers(client)[-1] == (RAN, '"new"')


@both_ways
async def test_a_result_that_a_client_invalidates(tool: ToolProposal) -> None:
    thinking = Thinking()
    told = Told(first_step(reading()))
    async with agent_on(scripted(thinking.then(READ_A), says("done")), predictors=[told]) as there:
        client = there.open(tool)
        await client.send()
        await client.answer(0, '"old"')
        change = Change(kind=ChangeKind.RESOURCE, names=("file:/a",))
        await there.cache.invalidate("ann", change)
        await thinking.on()
        assert reasons(client) == [STALE]
        await answer_again(client)


@both_ways
async def test_without_the_store_nothing_runs_early(tool: ToolProposal) -> None:
    thinking = Thinking()
    told = Told(first_step(reading()))
    async with agent_on(scripted(thinking.then(READ_A), says("done")), predictors=[told]) as there:
        StoreSwitch(there).lost = True
        client = there.open(tool)
        await client.send()
        assert not client.of(Invoke)
        await thinking.on()
        await answer_again(client)
        assert reasons(client) == [STALE]
        assert answers(client) == [(RAN, '"new"')]


@both_ways
async def test_without_the_store_no_early_result_is_used(tool: ToolProposal) -> None:
    thinking = Thinking()
    told = Told(first_step(reading()))
    async with agent_on(scripted(thinking.then(READ_A), says("done")), predictors=[told]) as there:
        switch = StoreSwitch(there)
        client = there.open(tool)
        await client.send()
        await client.answer(0, '"old"')
        switch.lost = True
        await thinking.on()
        assert reasons(client) == [STALE]
        await answer_again(client)
        assert answers(client) == [(RAN, '"new"')]


@both_ways
@pytest.mark.parametrize(("waited_s", "source"), [(60.0, EARLY), (60.1, RAN)])
async def test_a_result_that_waits_too_long_is_not_used(
    tool: ToolProposal, waited_s: float, source: ResultSource
) -> None:
    thinking = Thinking()
    told = Told(first_step(reading()))
    steps = [thinking.then(READ_A), says("done")]
    limits = replace(LIMITS, max_duration_s=1000.0)
    async with agent_on(scripted(*steps), predictors=[told]) as there:
        client = there.open(tool)
        await client.send(limits=limits)
        await there.advance(5.0)
        await client.answer(0, '"old"')
        await there.advance(waited_s)
        await thinking.on()
        if source is RAN:
            assert reasons(client) == [EXPIRED]
            await answer_again(client)
        assert [each.source for each in client.of(ToolCallCompleted)] == [source]


async def test_one_early_run_answers_one_of_two_equal_calls() -> None:
    thinking = Thinking()
    told = Told(first_step(weather()))
    steps = [thinking.then(ROME, ROME), says("done")]
    async with agent_on(scripted(*steps), predictors=[told]) as there:
        client = there.open(WEATHER)
        await client.send()
        await client.answer(0, "1")
        await thinking.on()
        await client.answer(1, "2")
        assert answers(client) == [(EARLY, "1"), (RAN, "2")]


async def test_calls_that_are_not_predicted_run_in_their_order() -> None:
    thinking = Thinking()
    told = Told(first_step(weather()))
    steps = [thinking.then(ROME, ROME, OSLO), says("done")]
    async with agent_on(scripted(*steps), predictors=[told]) as there:
        client = there.open(WEATHER)
        await client.send()
        await client.answer(0)
        await thinking.on()
        assert [each.arguments_json for each in client.of(Invoke)[1:]] == [ROME[1], OSLO[1]]
        await client.answer(1)
        await client.answer(2)


async def test_two_predictors_that_predict_the_same_have_one_run() -> None:
    thinking = Thinking()
    told = [Told(first_step(weather()), name=name) for name in (Predictor.HISTORY, Predictor.CACHE)]
    async with agent_on(scripted(thinking.then(ROME), says("done")), predictors=told) as there:
        client = there.open(WEATHER)
        await client.send()
        assert len(client.of(Invoke)) == len(client.of(PredictionLaunched)) == 1
        await client.answer(0)
        await thinking.on()
        assert story(client)[-2:] == [
            "confirmed weather Rome",
            "discarded weather Rome: DUPLICATE",
        ]
        [discarded] = client.of(PredictionDiscarded)
        assert discarded.time_wasted_s == 0


async def test_a_tool_without_reads_depends_on_its_conversation() -> None:
    thinking = Thinking()
    plain = replace(WEATHER, effects=SAFE)
    steps = [thinking.then(OSLO, SHELL_CALL), thinking.then(ROME), says("done")]
    told = Told(following(weather("Oslo"), weather("Rome")), moments=ALWAYS)
    async with agent_on(scripted(*steps), predictors=[told]) as there:
        client = there.open(plain, SHELL)
        await client.send()
        await there.advance(2.0)  # a tool that takes no time is not worth an early run
        await client.answer(0)
        await client.answer(1, '"old"')
        await thinking.on(0)
        await client.answer(2)
        await thinking.on(1)
        assert story(client)[-1] == "discarded weather Rome: STALE_RESOURCE"
        await answer_again(client)


async def test_of_two_equal_calls_that_ask_a_remote_store_one_claims_the_run() -> None:
    thinking = Thinking()
    told = Told(first_step(weather()))
    steps = [thinking.then(ROME, ROME), says("done")]
    async with agent_on(scripted(*steps), predictors=[told]) as there:
        StoreSwitch(there).waits = True
        client = there.open(WEATHER)
        turn = await client.send()
        await client.answer(0, "1")
        await thinking.on()
        await client.answer(1, "2")
        assert client.ending(turn).outcome is TurnOutcome.ANSWERED
        assert sorted(answers(client), key=str) == [(RAN, "2"), (EARLY, "1")]
        record = there.speculation.records.of("ann").tool("weather").of(Predictor.FORK)
        assert (record.resolved, record.matched, record.confirmed) == (1, 1, 1)


async def test_an_early_run_that_fails_as_its_call_comes_is_run_again() -> None:
    thinking = Thinking()
    told = Told(first_step(weather()))
    async with agent_on(scripted(thinking.then(ROME), says("done")), predictors=[told]) as there:
        switch = StoreSwitch(there)
        client = there.open(WEATHER)
        await client.send()
        switch.held = asyncio.Event()
        await thinking.on()
        switch.held.set()
        failed = client.of(Invoke)[0].invocation_id
        await client.conversation.deliver(failed, HandlerError("Busy", "later"))
        await settle()
        assert reasons(client) == [DiscardReason.HANDLER_ERROR]
        await answer_again(client)
        assert answers(client) == [(RAN, '"new"')]
