"""The engine dies and is restarted: which turns fail, and which continue."""

from __future__ import annotations

import asyncio

import pytest

from precall_service.domain.errors import Code, Reason
from precall_service.domain.events import StepCompleted, StepFinishReason, TurnOutcome, TurnQueued
from precall_service.engine.base import EngineDiedError, Prompt, StepSpec, StepStream
from tests.support.agent import ROME, WEATHER, agent_on, scripted
from tests.support.clock import settle
from tests.support.scripted_engine import ScriptedEngine
from tests.support.scripted_template import prompt_text
from tests.support.scripts import Pause, calls, never, says


async def test_a_turn_that_generates_fails_and_the_conversation_continues() -> None:
    first = scripted(says("Hello."), [*says("I am "), never()])
    second = scripted(says("Back."))
    async with agent_on(first, second) as there:
        client = there.open(WEATHER)
        await client.ask("one")
        await client.send("two")
        await there.restart()
        ending = client.ending()
        assert ending.outcome is TurnOutcome.FAILED
        assert ending.error is not None
        assert ending.error.reason is Reason.ENGINE_UNAVAILABLE
        assert ending.error.code is Code.UNAVAILABLE
        assert ending.error.retry_after_s is not None
        assert client.of(StepCompleted)[-1].finish_reason is StepFinishReason.ABORTED

        assert (await client.ask("three")).text == "Back."
        [prompt] = second.prompts
        assert prompt_text(prompt) == (
            "<system> tools: weather\n<user>one\n<model>Hello.\n<user>three\n<model>"
        )
        assert prompt.token_ids[: len(first.prompts[0])] == first.prompts[0].token_ids


async def test_a_turn_is_refused_while_there_is_no_engine() -> None:
    async with agent_on(scripted(), scripted(says("Back."))) as there:
        client = there.open()
        there.engine.die()
        await settle()
        ending = await client.ask()
        assert ending.outcome is TurnOutcome.FAILED
        assert ending.error is not None
        assert ending.error.reason is Reason.ENGINE_UNAVAILABLE
        await there.advance(0)
        assert (await client.ask()).text == "Back."


async def test_a_turn_that_waits_for_its_tools_continues_on_the_new_engine() -> None:
    first, second = scripted(calls(ROME)), scripted(says("Sunny."))
    async with agent_on(first, second) as there:
        client = there.open(WEATHER)
        await client.send()
        first.die()
        await settle()
        await there.advance(0)
        await client.answer()
        assert client.ending().text == "Sunny."
        [prompt] = second.prompts
        assert prompt.token_ids[: len(first.prompts[0])] == first.prompts[0].token_ids


async def test_a_turn_whose_tools_answer_while_there_is_no_engine_fails() -> None:
    async with agent_on(scripted(calls(ROME)), scripted(says("Back."))) as there:
        client = there.open(WEATHER)
        await client.send()
        there.engine.die()
        await settle()
        await client.answer()
        ending = client.ending()
        assert ending.outcome is TurnOutcome.FAILED
        assert ending.error is not None
        assert ending.error.reason is Reason.ENGINE_UNAVAILABLE
        assert "with a new turn id" in ending.error.message, "this one has begun"
        await there.advance(0)
        assert (await client.ask()).text == "Back."


async def test_a_turn_that_waits_for_admission_starts_on_the_new_engine() -> None:
    first, second = scripted([never()]), scripted(says("Yes."))
    async with agent_on(first, second) as there:
        there.resize(slots=1)
        running, waiting = there.open(), there.open()
        await running.send()
        await waiting.send()
        assert waiting.of(TurnQueued) == [TurnQueued(0)]
        there.resize(slots=0)
        await there.restart()
        assert running.ending().outcome is TurnOutcome.FAILED
        there.resize(slots=1)
        await settle()
        assert waiting.ending().text == "Yes."


@pytest.mark.parametrize("deaths", [1, 3])
async def test_an_engine_that_dies_again_and_again(deaths: int) -> None:
    mortal = [scripted([never()]) for _ in range(deaths)]
    async with agent_on(*mortal, scripted(says("At last."))) as there:
        client = there.open()
        for _ in range(deaths):
            await client.send()
            await there.restart()
            assert client.ending().outcome is TurnOutcome.FAILED
        assert (await client.ask()).text == "At last."


async def test_waiting_turns_are_not_admitted_to_a_dead_engine() -> None:
    first = scripted([*says("I am "), never()], sequences_max=1)
    second = scripted(says("one"), says("two"), sequences_max=1)
    async with agent_on(first, second) as there:
        running, *waiting = [there.open() for _ in range(3)]
        for client in (running, *waiting):
            await client.send("hi")
        await there.restart()
        assert running.ending().outcome is TurnOutcome.FAILED
        assert [client.ending().text for client in waiting] == ["one", "two"]


async def test_an_engine_that_reports_its_death_but_lives_is_replaced() -> None:
    """Waiting turns must not wait for a death that never comes."""
    hold = asyncio.Event()
    first = scripted([Pause(hold), EngineDiedError("it shuts down")], sequences_max=1)
    second = scripted(says("one"), says("two"), sequences_max=1)
    async with agent_on(first, second) as there:
        failing, waiting = there.open(), there.open()
        await failing.send()
        await waiting.send()
        hold.set()
        await settle()
        error = failing.ending().error
        assert error is not None
        assert error.reason is Reason.ENGINE_UNAVAILABLE
        await there.advance(0)
        assert waiting.ending().text == "one"
        assert (await failing.ask()).text == "two"
        assert first.closed


async def test_a_turn_whose_engine_dies_as_it_is_cancelled_is_cancelled() -> None:
    async with agent_on(DiesWhenAborted([[*says("I am "), never()]]), scripted()) as there:
        client = there.open()
        await client.send()
        client.conversation.cancel_turn("")
        await settle()
        ending = client.ending()
        assert ending.outcome is TurnOutcome.CANCELLED
        assert ending.error is not None
        assert ending.error.reason is Reason.CANCELLED


class DiesWhenAborted(ScriptedEngine):
    async def generate(self, prompt: Prompt, spec: StepSpec) -> StepStream:
        try:
            async for item in super().generate(prompt, spec):
                yield item
        except asyncio.CancelledError:
            raise EngineDiedError("it died while it aborted the step") from None
