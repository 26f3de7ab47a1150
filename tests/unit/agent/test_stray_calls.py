"""Calls that cannot be made are told as what they are, and never run."""

from __future__ import annotations

import pytest

from precall_service.domain.errors import Reason, ServiceError
from precall_service.domain.events import (
    Invoke,
    ToolCallCompleted,
    ToolCallOutcome,
    ToolCallReady,
    TurnCompleted,
    TurnOutcome,
)
from precall_service.domain.turn import GenerationSettings, ToolChoice, ToolChoiceMode
from precall_service.engine.base import CallBegun, CallPiece, CallUnreadable, StrayCall
from precall_service.tools.link import HandlerResult
from tests.support.agent import LIMITS, OSLO, ROME, TIME, WEATHER, agent
from tests.support.scripted_template import prompt_text
from tests.support.scripts import Ends, Item, calls, says

REQUIRED = GenerationSettings(tool_choice=ToolChoice(mode=ToolChoiceMode.REQUIRED))
NAMED = GenerationSettings(tool_choice=ToolChoice(mode=ToolChoiceMode.NAMED, tool_name="time"))
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
        error = missed(await client.ask(generation=generation), Reason.CALL_STOPPED)
        assert error.field == "start_turn.generation.stop"
        assert error.metadata["stop_text"] in error.message
        assert not client.of(Invoke)
        for call in client.of(ToolCallCompleted):
            assert call.outcome is ToolCallOutcome.CANCELLED
            assert call.error is not None
            assert call.error.reason is Reason.CALL_STOPPED


async def test_a_stop_text_before_a_required_call_is_named() -> None:
    async with agent([*says("One."), Ends("\n")]) as there:
        client = there.open(WEATHER, handler=lambda _: HandlerResult("1"))
        missed(await client.ask(generation=REQUIRED), Reason.CALL_STOPPED)


async def test_a_stop_text_after_a_text_ends_an_answer() -> None:
    async with agent([*says("One."), Ends("\n")]) as there:
        ending = await there.open(WEATHER, handler=lambda _: HandlerResult("1")).ask()
        assert ending.outcome is TurnOutcome.ANSWERED


async def test_a_step_that_was_cut_after_its_call_has_made_it() -> None:
    """The next call is a step of its own, and nothing that ran is thrown away."""
    cut = Ends(cut_after_call=True)
    async with agent([*calls(ROME), cut], [*calls(OSLO), cut], says("Both are warm.")) as there:
        client = there.open(WEATHER, handler=lambda _: HandlerResult("1"))
        ending = await client.ask(generation=REQUIRED)
        assert (ending.outcome, ending.text) == (TurnOutcome.ANSWERED, "Both are warm.")
        assert [call.outcome for call in client.of(ToolCallCompleted)] == [
            ToolCallOutcome.RESULT,
            ToolCallOutcome.RESULT,
        ]
        assert len(client.of(Invoke)) == 2
        assert len(there.engine.prompts) == 3


@pytest.mark.parametrize("stray", StrayCall)
@pytest.mark.parametrize("generation", [REQUIRED, GenerationSettings()])
async def test_a_call_that_was_meant_but_not_made_is_no_answer(
    stray: StrayCall, generation: GenerationSettings
) -> None:
    async with agent([Ends(stray_call=stray)]) as there:
        client = there.open(WEATHER, handler=lambda _: HandlerResult("1"))
        error = missed(await client.ask(generation=generation), Reason.CALL_LOST)
        assert error.metadata == {"stray_call": stray.name.lower()}
        assert stray.value in error.message


async def test_a_required_call_that_was_not_made_is_no_answer() -> None:
    async with agent(says("No.")) as there:
        client = there.open(WEATHER, handler=lambda _: HandlerResult("1"))
        error = missed(await client.ask(generation=REQUIRED), Reason.CALL_MISSING)
        assert error.metadata == {}


@pytest.mark.parametrize("step", [says("No."), calls(OSLO)])
async def test_a_named_call_that_was_not_made_is_no_answer(step: list[Item]) -> None:
    async with agent(step) as there:
        client = there.open(WEATHER, TIME, handler=lambda _: HandlerResult("1"))
        error = missed(await client.ask(generation=NAMED), Reason.CALL_MISSING)
        assert error.metadata == {"tool_name": "time"}
        assert not client.of(Invoke)
        assert {call.outcome for call in client.of(ToolCallCompleted)} <= {
            ToolCallOutcome.CANCELLED
        }


async def test_calls_beside_the_named_one_run() -> None:
    async with agent(calls(OSLO, ("time", "{}")), says("Yes.")) as there:
        client = there.open(WEATHER, TIME, handler=lambda _: HandlerResult("1"))
        assert (await client.ask(generation=NAMED)).outcome is TurnOutcome.ANSWERED
        assert len(client.of(Invoke)) == 2


async def test_a_call_stays_required_until_one_can_be_read() -> None:
    async with agent([*HALF, Ends(stray_call=StrayCall.OPEN)], calls(OSLO), says("Yes.")) as there:
        client = there.open(WEATHER, handler=lambda _: HandlerResult("1"))
        assert (await client.ask(generation=REQUIRED)).text == "Yes."
        required = REQUIRED.tool_choice
        assert [spec.tool_choice for spec in there.engine.specs] == [
            required,
            required,
            ToolChoice(),
        ]


async def test_calls_that_cannot_be_read_end_with_the_limit_on_steps() -> None:
    half = [*HALF, Ends(stray_call=StrayCall.OPEN)]
    async with agent(*[half] * LIMITS.max_steps) as there:
        client = there.open(WEATHER, handler=lambda _: HandlerResult("1"))
        ending = await client.ask(generation=REQUIRED)
        assert ending.outcome is TurnOutcome.LIMIT
        assert not client.of(Invoke)


LOST: list[Item] = [*says("Let me see."), Ends(stray_call=StrayCall.LOST)]


async def test_the_turn_can_be_sent_again_as_if_it_had_never_been() -> None:
    async with agent(LOST, says("Yes.")) as there:
        client = there.open(WEATHER, handler=lambda _: HandlerResult("1"))
        missed(await client.ask(), Reason.CALL_LOST)
        assert (await client.ask()).text == "Yes."
        first, second = there.engine.prompts
        assert first == second


async def test_the_same_turn_gets_the_same_ending() -> None:
    async with agent(LOST) as there:
        client = there.open(WEATHER, handler=lambda _: HandlerResult("1"))
        turn_id = await client.send()
        ending = client.ending(turn_id)
        await client.send(turn_id=turn_id)
        assert client.of(TurnCompleted) == [ending, ending]
        assert len(there.engine.prompts) == 1


async def test_after_effects_the_conversation_keeps_the_finished_steps() -> None:
    async with agent(calls(OSLO), LOST, says("Yes.")) as there:
        client = there.open(WEATHER, handler=lambda _: HandlerResult("1"))
        error = missed(await client.ask(), Reason.CALL_LOST)
        assert error.metadata == {"stray_call": "lost", "called": "weather"}
        await client.ask()
        assert prompt_text(there.engine.prompts[2]).startswith(
            prompt_text(there.engine.prompts[1]) + "Let me see."
        )


async def test_after_effects_the_stop_text_is_still_named() -> None:
    async with agent(calls(OSLO), [Ends("{", StrayCall.OPEN)]) as there:
        client = there.open(WEATHER, handler=lambda _: HandlerResult("1"))
        error = missed(await client.ask(), Reason.CALL_STOPPED)
        assert error.field == "start_turn.generation.stop"
        assert error.metadata == {"stop_text": "{", "called": "weather"}


def missed(ending: TurnCompleted, reason: Reason) -> ServiceError:
    """Returns the error of a turn that ended without a call that was meant or required."""
    assert ending.outcome is TurnOutcome.NO_CALL
    assert ending.error is not None
    assert ending.error.reason is reason
    return ending.error
