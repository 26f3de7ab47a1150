"""What turns teach: of tools, how long they take; of predictors, what they were worth."""

from __future__ import annotations

from dataclasses import replace

from precall_service.domain.events import DiscardReason, PredictionProposed, Predictor, TurnOutcome
from precall_service.speculation.records import PredictorRecord, ToolRecord
from tests.support.agent import LIMITS, Agent, agent_on, scripted
from tests.support.scripts import calls, says
from tests.support.speculating import WEATHER, Thinking, Told, first_step, reasons, weather

ROME, OSLO = ("weather", '{"city": "Rome"}'), ("weather", '{"city": "Oslo"}')


def of_tool(there: Agent) -> ToolRecord:
    return there.speculation.records.of("ann").tool("weather")


def of_fork(there: Agent) -> PredictorRecord:
    return of_tool(there).of(Predictor.FORK)


async def test_a_run_that_answered_its_call() -> None:
    thinking = Thinking()
    steps = [thinking.then(ROME), says("done")]
    async with agent_on(scripted(*steps), predictors=[Told(first_step(weather()))]) as there:
        client = there.open(WEATHER)
        await client.send()
        await there.advance(2.0)
        await client.answer(0)
        await there.advance(1.0)
        await thinking.on()
        tool, fork = of_tool(there), of_fork(there)
        assert (tool.calls, tool.calls_confirmed) == (1, 1)
        assert tool.run_times.typical_s == 2.0
        assert (fork.proposed, fork.launched, fork.resolved) == (1, 1, 1)
        assert (fork.matched, fork.confirmed) == (1, 1)
        assert (fork.saved_s, fork.wasted_s) == (2.0, 0.0)
        assert fork.leads.typical_s == 3.0
        assert there.speculation.records.of("ann").waste_left_s == 60.0


async def test_a_run_that_was_wrong_is_taken_from_the_budget() -> None:
    thinking = Thinking()
    steps = [thinking.then(OSLO), says("done")]
    async with agent_on(scripted(*steps), predictors=[Told(first_step(weather()))]) as there:
        client = there.open(WEATHER)
        await client.send()
        await there.advance(2.0)
        await thinking.on()
        assert there.speculation.records.of("ann").waste_left_s == 58.0
        await there.advance(5.0)
        await client.answer(1)
        tool, fork = of_tool(there), of_fork(there)
        assert (tool.calls, tool.calls_confirmed) == (1, 0)
        assert tool.run_times.typical_s == 5.0, "a run of a call tells how long the tool takes"
        assert (fork.resolved, fork.matched, fork.confirmed) == (1, 0, 0)
        assert (fork.saved_s, fork.wasted_s) == (0.0, 2.0)


async def test_a_step_that_a_limit_cut_says_nothing_of_its_predictions() -> None:
    thinking = Thinking()
    step = [*thinking.then()[:-1], *calls(OSLO)]
    limits = replace(LIMITS, max_turn_tokens=len("<think>hm</think><call weather>"))
    async with agent_on(scripted(step), predictors=[Told(first_step(weather()))]) as there:
        client = there.open(WEATHER)
        turn = await client.send(limits=limits)
        assert len(client.of(PredictionProposed)) == 1
        await thinking.on()
        assert client.ending(turn).outcome is TurnOutcome.LIMIT
        assert reasons(client) == [DiscardReason.TURN_ENDED]
        assert of_fork(there).resolved == 0


async def test_an_answer_without_a_call_shows_that_a_prediction_was_wrong() -> None:
    thinking = Thinking()
    told = Told(first_step(weather()))
    async with agent_on(scripted(thinking.then()), predictors=[told]) as there:
        client = there.open(WEATHER)
        await client.send()
        await thinking.on()
        assert reasons(client) == [DiscardReason.TURN_ENDED]
        assert (of_fork(there).resolved, of_fork(there).matched) == (1, 0)
        assert of_tool(there).calls == 0
