"""Calls that cannot be made are told as what they are, and never run."""

from __future__ import annotations

import pytest

from precall_service.domain.errors import Reason
from precall_service.domain.events import (
    Invoke,
    ToolCallCompleted,
    ToolCallOutcome,
    ToolCallReady,
    TurnOutcome,
)
from precall_service.domain.turn import GenerationSettings, ToolChoice, ToolChoiceMode
from precall_service.engine.base import CallBegun, CallPiece, CallUnreadable, StrayCall
from precall_service.tools.link import HandlerResult
from tests.support.agent import OSLO, ROME, WEATHER, agent
from tests.support.scripted_template import prompt_text
from tests.support.scripts import Ends, Item, calls, says

REQUIRED = GenerationSettings(tool_choice=ToolChoice(mode=ToolChoiceMode.REQUIRED))
HALF: tuple[Item, ...] = (CallBegun(0, "get_weather"), CallPiece(0, '{"city": "R'))


async def test_a_call_that_cannot_be_read_is_answered_but_not_run() -> None:
    unreadable = [*HALF, CallPiece(0, '"}'), CallUnreadable(0, "where it ends is not certain")]
    async with agent(unreadable, says("I see.")) as there:
        client = there.open(WEATHER, handler=lambda _: HandlerResult("1"))
        ending = await client.ask()
        assert ending.outcome is TurnOutcome.ANSWERED
        (completed,) = client.of(ToolCallCompleted)
        assert completed.outcome is ToolCallOutcome.ERROR
        assert completed.error is not None
        assert completed.error.reason is Reason.ARGUMENTS_INVALID
        assert not client.of(Invoke)
        assert not client.of(ToolCallReady)
        assert "where it ends is not certain" in prompt_text(there.engine.prompts[-1])


async def test_calls_beside_it_run() -> None:
    bad = [CallBegun(1, "get_weather"), CallPiece(1, '{"city": "R'), CallUnreadable(1, "cut")]
    async with agent([*calls(ROME), *bad], says("Yes.")) as there:
        client = there.open(WEATHER, handler=lambda _: HandlerResult("1"))
        await client.ask()
        assert [call.outcome for call in client.of(ToolCallCompleted)].count(
            ToolCallOutcome.RESULT
        ) == 1
        assert len(client.of(Invoke)) == 1


async def test_a_call_that_the_model_left_unfinished_can_be_tried_again() -> None:
    async with agent([*HALF, Ends(stray_call=StrayCall.OPEN)], calls(OSLO), says("Yes.")) as there:
        client = there.open(WEATHER, handler=lambda _: HandlerResult("1"))
        assert (await client.ask()).text == "Yes."
        assert [call.outcome for call in client.of(ToolCallCompleted)] == [
            ToolCallOutcome.ERROR,
            ToolCallOutcome.RESULT,
        ]
        assert "the message ended before the arguments did" in prompt_text(there.engine.prompts[1])


@pytest.mark.parametrize(
    "step",
    [
        [*HALF, Ends("R", StrayCall.OPEN)],
        [*calls(OSLO), CallBegun(1, "get_weather"), Ends("}", StrayCall.OPEN)],
        [Ends("{", StrayCall.OPEN)],
    ],
)
@pytest.mark.parametrize("generation", [REQUIRED, GenerationSettings()])
async def test_a_stop_text_that_cuts_a_call_is_named(
    step: list[Item], generation: GenerationSettings
) -> None:
    async with agent(step) as there:
        client = there.open(WEATHER, handler=lambda _: HandlerResult("1"))
        ending = await client.ask(generation=generation)
        assert ending.outcome is TurnOutcome.FAILED
        assert ending.error is not None
        assert ending.error.field == "start_turn.generation.stop"
        assert "stop text" in ending.error.message
        assert not client.of(Invoke)
        for call in client.of(ToolCallCompleted):
            assert call.error is not None
            assert "limit" not in call.error.message


async def test_a_stop_text_after_a_text_ends_an_answer() -> None:
    async with agent([*says("One."), Ends("\n")]) as there:
        ending = await there.open(WEATHER, handler=lambda _: HandlerResult("1")).ask()
        assert ending.outcome is TurnOutcome.ANSWERED


@pytest.mark.parametrize("stray", StrayCall)
async def test_a_call_that_was_meant_but_not_made_is_no_answer(stray: StrayCall) -> None:
    async with agent([Ends(stray_call=stray)]) as there:
        ending = await there.open(WEATHER, handler=lambda _: HandlerResult("1")).ask()
        assert ending.outcome is TurnOutcome.FAILED
        assert ending.error is not None
        assert ending.error.reason is Reason.ENGINE_FAILED
        assert stray.value in ending.error.message


async def test_a_required_call_that_was_not_made_is_no_answer() -> None:
    async with agent(says("No.")) as there:
        client = there.open(WEATHER, handler=lambda _: HandlerResult("1"))
        ending = await client.ask(generation=REQUIRED)
        assert ending.outcome is TurnOutcome.FAILED
        assert ending.error is not None
        assert "a call was required" in ending.error.message
