"""One turn from the user's message to the answer, with its calls."""

from __future__ import annotations

import asyncio

import pytest

from precall_service.domain.errors import Reason, ServiceError
from precall_service.domain.events import (
    Invoke,
    ReasoningDelta,
    ResultSource,
    StepCompleted,
    StepFinishReason,
    StepStarted,
    TextDelta,
    ToolCallArgumentsDelta,
    ToolCallCompleted,
    ToolCallOutcome,
    ToolCallProgress,
    ToolCallReady,
    ToolCallStarted,
    TurnCompleted,
    TurnOutcome,
    TurnStarted,
)
from precall_service.domain.turn import GenerationSettings, ToolChoice, ToolChoiceMode
from precall_service.engine.base import (
    CallBegun,
    CallPiece,
    GenerationFailedError,
    GenerationRefusedError,
    Priority,
)
from precall_service.tools.link import HandlerCancelled, HandlerError, HandlerResult
from tests.support.agent import OSLO, ROME, TIME, WEATHER, agent, agent_on, scripted
from tests.support.client_events import finishes, text_of
from tests.support.clock import settle
from tests.support.scripted_template import prompt_text
from tests.support.scripts import calls, one_by_one, says, thinks

THREE = [("weather", f'{{"city":"{city}"}}') for city in ("Rome", "Oslo", "Bonn")]


async def test_a_plain_answer() -> None:
    async with agent(one_by_one(says("Hel", "lo."))) as there:
        client = there.open(system_prompt="Be brief.")
        ending = await client.ask("Say hello.")
        assert (ending.outcome, ending.text, ending.error) == (TurnOutcome.ANSWERED, "Hello.", None)
        assert [type(event) for event in client.events] == [
            TurnStarted,
            StepStarted,
            TextDelta,
            TextDelta,
            StepCompleted,
            TurnCompleted,
        ]
        [prompt] = there.engine.prompts
        assert prompt_text(prompt).endswith("<user>Say hello.\n<model>")
        assert client.of(StepStarted) == [StepStarted(0, len(prompt))]
        [step] = client.of(StepCompleted)
        assert step.finish_reason is StepFinishReason.STOP
        assert step.usage.output_tokens == len("Hello.") + 1
        assert ending.report.usage == step.usage


async def test_a_call_and_its_result() -> None:
    script = one_by_one(says("Let me see. ") + calls(ROME)), says("Sunny.")
    async with agent(*script) as there:
        client = there.open(WEATHER)
        turn_id = await client.send("Rome?")
        [invocation] = client.of(Invoke)
        assert invocation.arguments_json == ROME[1]
        assert invocation.turn_id == turn_id
        assert invocation.conversation_id == client.conversation.conversation_id
        await client.answer(result_json='{"sky":"clear"}')

        ending = client.ending()
        assert (ending.outcome, ending.text) == (TurnOutcome.ANSWERED, "Sunny.")
        call_id = invocation.call_id
        assert [event for event in client.events if not isinstance(event, StepCompleted)][3:-1] == [
            ToolCallStarted(call_id, "weather"),
            ToolCallArgumentsDelta(call_id, '{"city"'),
            ToolCallArgumentsDelta(call_id, ':"Rome"}'),
            ToolCallReady(call_id, "weather", ROME[1]),
            invocation,
            ToolCallCompleted(
                call_id,
                ToolCallOutcome.RESULT,
                '{"sky":"clear"}',
                None,
                0.0,
                ResultSource.COMMITTED,
            ),
            StepStarted(1, len(there.engine.prompts[1])),
            TextDelta("Sunny."),
        ]
        assert finishes(client.events) == [StepFinishReason.TOOL_CALLS, StepFinishReason.STOP]
        assert prompt_text(there.engine.prompts[1]).endswith(
            'Let me see. <call weather>{"city":"Rome"}</call>\n'
            '<tool>weather: {"sky":"clear"}\n<model>'
        )


async def test_calls_one_after_another() -> None:
    async with agent(calls(ROME), calls(OSLO), says("Both.")) as there:
        client = there.open(WEATHER, handler=lambda invocation: HandlerResult("1"))
        ending = await client.ask()
        assert ending.text == "Both."
        assert (ending.report.steps, ending.report.tool_calls) == (3, 2)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
async def test_parallel_calls_are_answered_in_call_order(order: tuple[int, ...]) -> None:
    async with agent(calls(*THREE), says("Done.")) as there:
        client = there.open(WEATHER)
        await client.send()
        assert len(client.of(Invoke)) == 3
        for index in order:
            assert len(there.engine.prompts) == 1
            await client.answer(index, result_json=str(index))
        told = [completed.result_json for completed in client.of(ToolCallCompleted)]
        assert told == [str(index) for index in order]
        assert prompt_text(there.engine.prompts[1]).endswith(
            "<tool>weather: 0\n<tool>weather: 1\n<tool>weather: 2\n<model>"
        )


async def test_reasoning_is_kept_apart() -> None:
    script = one_by_one(thinks("Hm, ", "Rome.") + says("Sun") + calls(ROME)), says("ny.")
    async with agent(*script) as there:
        client = there.open(WEATHER, handler=lambda invocation: HandlerResult("1"))
        ending = await client.ask()
        assert ending.text == "ny."
        assert client.of(ReasoningDelta) == [ReasoningDelta("Hm, "), ReasoningDelta("Rome.")]
        assert text_of(client.events) == "Sunny."
        assert client.of(StepCompleted)[0].usage.reasoning_tokens == len("Hm, Rome.")


# Calls that fail: the model reads the error, and the turn continues.


async def test_a_call_of_an_unknown_tool() -> None:
    async with agent(calls(("rain", "{}")), says("Sorry.")) as there:
        client = there.open(WEATHER)
        ending = await client.ask()
        assert ending.text == "Sorry."
        [completed] = client.of(ToolCallCompleted)
        assert completed.outcome is ToolCallOutcome.ERROR
        assert completed.error is not None
        assert completed.error.reason is Reason.TOOL_UNKNOWN
        assert "weather" in completed.error.message
        assert "tool_unknown" in prompt_text(there.engine.prompts[1])


@pytest.mark.parametrize("arguments", ['{"city":1}', "{}", "[]", "{", '{"city":"Rome","x":1}'])
async def test_a_call_with_invalid_arguments(arguments: str) -> None:
    async with agent(calls(("weather", arguments)), says("Sorry.")) as there:
        client = there.open(WEATHER)
        assert (await client.ask()).outcome is TurnOutcome.ANSWERED
        [completed] = client.of(ToolCallCompleted)
        assert completed.error is not None
        assert completed.error.reason is Reason.ARGUMENTS_INVALID
        assert client.of(Invoke) == []


async def test_a_handler_that_fails() -> None:
    async with agent(calls(ROME, OSLO), says("Sorry.")) as there:
        client = there.open(WEATHER)
        await client.send()
        await client.deliver(HandlerError("ValueError", "no such city"), 0)
        await client.deliver(HandlerCancelled(), 1)
        assert client.ending().outcome is TurnOutcome.ANSWERED
        outcomes = [completed.outcome for completed in client.of(ToolCallCompleted)]
        assert outcomes == [ToolCallOutcome.ERROR, ToolCallOutcome.CANCELLED]
        assert "no such city" in prompt_text(there.engine.prompts[1])


async def test_a_handler_that_hangs() -> None:
    async with agent(calls(ROME), says("Sorry.")) as there:
        client = there.open(WEATHER)
        await client.send()
        await there.advance(20.0)
        assert client.ending().outcome is TurnOutcome.ANSWERED
        [completed] = client.of(ToolCallCompleted)
        assert (completed.outcome, completed.wait_time_s) == (ToolCallOutcome.TIMEOUT, 20.0)


async def test_progress_of_a_handler_is_passed_on() -> None:
    async with agent(calls(ROME), says("Sunny.")) as there:
        client = there.open(WEATHER)
        await client.send()
        [invocation] = client.of(Invoke)
        client.conversation.progress(invocation.invocation_id, "half", 0.5)
        await settle()
        assert client.of(ToolCallProgress) == [ToolCallProgress(invocation.call_id, "half", 0.5)]
        await client.answer()


# What the engine is asked for.


async def test_every_step_has_the_settings_of_its_turn() -> None:
    generation = GenerationSettings(temperature=0.5, seed=7, max_step_tokens=50, stop=("x",))
    async with agent(calls(ROME), says("Sunny.")) as there:
        client = there.open(WEATHER, TIME, handler=lambda invocation: HandlerResult("1"))
        await client.ask(generation=generation)
        for spec in there.engine.specs:
            assert spec.generation == generation
            assert spec.max_tokens == 50
            assert [tool.name for tool in spec.tools] == ["weather", "time"]
        assert len({spec.step_id for spec in there.engine.specs}) == 2


async def test_every_step_names_its_tenant_and_its_template_variables() -> None:
    async with agent(calls(ROME), says("Sunny.")) as there:
        variables = {"enable_thinking": False}
        client = there.open(
            WEATHER,
            tenant="bob",
            template_variables=variables,
            handler=lambda invocation: HandlerResult("1"),
        )
        await client.ask()
        asked = [(spec.tenant, spec.template_variables) for spec in there.engine.specs]
        assert asked == [("bob", variables)] * 2


async def test_steps_that_continue_a_turn_go_first() -> None:
    async with agent(calls(ROME), calls(ROME), says("."), says(".")) as there:
        client = there.open(WEATHER, handler=lambda invocation: HandlerResult("1"))
        await client.ask()
        await client.ask()
        assert [spec.priority for spec in there.engine.specs] == [
            Priority.STARTS_TURN,
            Priority.CONTINUES_TURN,
            Priority.CONTINUES_TURN,
            Priority.STARTS_TURN,
        ]


@pytest.mark.parametrize(
    ("choice", "afterwards"),
    [
        (ToolChoice(mode=ToolChoiceMode.REQUIRED), ToolChoice()),
        (ToolChoice(mode=ToolChoiceMode.NAMED, tool_name="weather"), ToolChoice()),
        (ToolChoice(), ToolChoice()),
    ],
)
async def test_a_choice_holds_until_the_model_has_called(
    choice: ToolChoice, afterwards: ToolChoice
) -> None:
    async with agent(calls(ROME), calls(OSLO), says("Done.")) as there:
        client = there.open(WEATHER, handler=lambda invocation: HandlerResult("1"))
        await client.ask(generation=GenerationSettings(tool_choice=choice))
        chosen = [spec.tool_choice for spec in there.engine.specs]
        assert chosen == [choice, afterwards, afterwards]


async def test_the_choice_of_no_tool_holds_for_the_whole_turn() -> None:
    none = ToolChoice(mode=ToolChoiceMode.NONE)
    async with agent(calls(ROME), says("Done.")) as there:  # the model calls a tool all the same
        client = there.open(WEATHER, handler=lambda invocation: HandlerResult("1"))
        await client.ask(generation=GenerationSettings(tool_choice=none))
        assert [spec.tool_choice for spec in there.engine.specs] == [none, none]


@pytest.mark.parametrize(
    ("refusal", "reason"),
    [
        (GenerationRefusedError("top_p is out of range"), Reason.FIELD_INVALID),
        (GenerationFailedError("the engine failed at top_p"), Reason.ENGINE_FAILED),
    ],
)
async def test_a_refusal_or_failure_of_the_engine_fails_the_turn(
    refusal: ServiceError, reason: Reason
) -> None:
    async with agent([refusal], says("Yes.")) as there:
        client = there.open()
        ending = await client.ask()
        assert ending.outcome is TurnOutcome.FAILED
        assert ending.error is not None
        assert ending.error.reason is reason
        assert "top_p" in ending.error.message
        assert finishes(client.events) == [StepFinishReason.ABORTED]
        assert (await client.ask()).text == "Yes."


async def test_a_template_that_refuses_fails_the_turn() -> None:
    async with agent(calls(ROME), says("Yes.")) as there:
        client = there.open(WEATHER)
        there.engine.template_refusal = "roles must alternate"
        ending = await client.ask()
        assert ending.outcome is TurnOutcome.FAILED
        assert ending.error is not None
        assert ending.error.reason is Reason.TEMPLATE_REFUSED
        there.engine.template_refusal = ""
        await client.send("again")
        there.engine.template_refusal = "no tools"
        await client.answer()
        assert client.ending().outcome is TurnOutcome.FAILED
        there.engine.template_refusal = ""
        assert (await client.ask("at last")).text == "Yes."
        assert "<user>again\n<model><call weather>" in prompt_text(there.engine.prompts[-1])


async def test_a_defect_fails_the_turn_and_tells_only_an_incident_number(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with agent([CallPiece(7, "{}")], says("Yes.")) as there:
        client = there.open()
        ending = await client.ask()
        assert ending.outcome is TurnOutcome.FAILED
        assert ending.error is not None
        assert ending.error.reason is Reason.INTERNAL
        incident = ending.error.metadata["incident"]
        assert incident in caplog.text
        assert "KeyError" not in ending.error.message
        assert (await client.ask()).text == "Yes."


async def test_a_step_that_the_engine_cancels_by_itself_fails_the_turn() -> None:
    engine = scripted(script=_cancelled)
    async with agent_on(engine) as there:
        ending = await there.open().ask()
        assert ending.outcome is TurnOutcome.FAILED
        assert ending.error is not None


def _cancelled(*_: object) -> list[CallBegun]:
    raise asyncio.CancelledError
