"""Turns that reach a limit: of steps, tokens, the context window, or one step's length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from precall_service.domain.errors import Reason, ServiceError
from precall_service.domain.events import (
    Invoke,
    StepCompleted,
    StepFinishReason,
    ToolCallCompleted,
    ToolCallOutcome,
    ToolCallReady,
    ToolCallStarted,
    TurnCompleted,
    TurnOutcome,
)
from precall_service.domain.turn import GenerationSettings
from precall_service.tools.link import HandlerResult
from tests.support.agent import (
    LIMITS,
    OSLO,
    ROME,
    WEATHER,
    Handler,
    agent,
    agent_on,
    scripted,
)
from tests.support.client_events import finishes, reasoning_of, text_of
from tests.support.scripted_template import prompt_text
from tests.support.scripts import Item, Piece, StepWriter, calls, says, thinks


def answering(result_json: str = "1") -> Handler:
    return lambda invocation: HandlerResult(result_json)


def cut(ending: TurnCompleted, reason: Reason = Reason.LIMIT_REACHED) -> ServiceError:
    """Checks that the turn was cut for this reason; returns its error."""
    assert ending.outcome is TurnOutcome.LIMIT
    assert ending.error is not None
    assert ending.error.reason is reason
    return ending.error


def tokens_of(items: Sequence[Item]) -> int:
    """Returns how many tokens a step of these items has, without its end token."""
    return len(_written(items))


def _written(items: Sequence[Item]) -> str:
    writer = StepWriter(10_000)
    for item in items:
        assert isinstance(item, Piece)
        writer.write(item)
    return writer.text


async def test_too_many_steps() -> None:
    async with agent(calls(ROME), calls(ROME, OSLO), says("Next.")) as there:
        client = there.open(WEATHER, handler=answering())
        ending = await client.ask(limits=replace(LIMITS, max_steps=2))
        error = cut(ending)
        assert "2 steps" in error.message
        assert error.metadata["limit"] == "2"
        assert len(client.of(Invoke)) == 1, "calls that no step can use are not run"
        outcomes = [call.outcome for call in client.of(ToolCallCompleted)]
        assert outcomes == [
            ToolCallOutcome.RESULT,
            ToolCallOutcome.CANCELLED,
            ToolCallOutcome.CANCELLED,
        ]
        assert ending.report.tool_calls == 3, "calls that were made but not run count, too"

        await client.ask("next")
        kept = prompt_text(there.engine.prompts[-1])
        assert kept.count("the turn ended before the call did") == 2
        assert kept.endswith("<model>\n<user>next\n<model>")


async def test_one_step_is_enough_for_an_answer() -> None:
    async with agent(says("Yes.")) as there:
        ending = await there.open().ask(limits=replace(LIMITS, max_steps=1))
        assert ending.outcome is TurnOutcome.ANSWERED


async def test_tokens_count_over_all_steps() -> None:
    first = tokens_of(calls(ROME)) + 1
    async with agent(calls(ROME), says("x" * 100)) as there:
        client = there.open(WEATHER, handler=answering())
        ending = await client.ask(limits=replace(LIMITS, max_turn_tokens=first + 10))
        assert cut(ending).field == "start_turn.limits.max_turn_tokens"
        assert ending.text == "x" * 10
        assert [spec.max_tokens for spec in there.engine.specs] == [first + 10, 10]
        assert ending.report.usage.output_tokens == first + 10


async def test_no_step_is_begun_without_a_token_left() -> None:
    first = tokens_of(calls(ROME)) + 1
    async with agent(calls(ROME), says("Next.")) as there:
        client = there.open(WEATHER, handler=answering())
        ending = await client.ask(limits=replace(LIMITS, max_turn_tokens=first))
        assert str(first) in cut(ending).message
        assert len(there.engine.specs) == 1
        assert (await client.ask("next")).text == "Next."
        kept = prompt_text(there.engine.prompts[-1])
        assert "the turn ended before the call did" in kept
        assert kept.endswith("<user>next\n<model>")
        assert not client.of(Invoke)


async def test_a_step_has_a_limit_of_its_own() -> None:
    async with agent(says("x" * 100), says("Next.")) as there:
        client = there.open()
        ending = await client.ask(generation=GenerationSettings(max_step_tokens=10))
        error = cut(ending)
        assert "10 tokens" in error.message
        assert error.field == "start_turn.generation.max_step_tokens"
        assert ending.text == "x" * 10
        assert finishes(client.events) == [StepFinishReason.LENGTH]
        await client.ask("next")
        kept = prompt_text(there.engine.prompts[-1])
        assert kept == f"<user>hi\n<model>{'x' * 10}\n<user>next\n<model>"


CUTS = range(1, tokens_of(says("See: ") + calls(ROME)) + 2)


@pytest.mark.parametrize("max_tokens", CUTS)
async def test_a_step_cut_anywhere_in_or_after_its_call(max_tokens: int) -> None:
    step = says("See: ") + calls(ROME)
    whole = max_tokens == tokens_of(step) + 1
    async with agent(step, says("Next."), says("Next.")) as there:
        client = there.open(WEATHER, handler=answering())
        ending = await client.ask(generation=GenerationSettings(max_step_tokens=max_tokens))
        if whole:
            assert ending.text == "Next."
            return
        cut(ending)
        assert ending.text == text_of(client.events) == "See: "[:max_tokens]
        assert client.of(Invoke) == []
        assert len(client.of(ToolCallStarted)) == len(client.of(ToolCallCompleted))
        for completed in client.of(ToolCallCompleted):
            assert completed.outcome is ToolCallOutcome.CANCELLED
            assert completed.error is not None
            assert "no call was made" in completed.error.message

        await client.ask("next")
        said = _written(step)[:max_tokens]
        prompt = prompt_text(there.engine.prompts[-1])
        assert prompt.endswith(f"<model>{said}\n<user>next\n<model>")


async def test_a_step_cut_after_a_complete_call_makes_no_call() -> None:
    step = calls(ROME, OSLO)
    async with agent(step) as there:
        client = there.open(WEATHER)
        ending = await client.ask(
            generation=GenerationSettings(max_step_tokens=tokens_of(step) - 3)
        )
        cut(ending)
        assert len(client.of(ToolCallReady)) >= 1
        assert client.of(Invoke) == []
        assert ending.report.tool_calls == 0


async def test_a_step_cut_in_its_reasoning_has_no_text() -> None:
    async with agent(thinks("x" * 100)) as there:
        client = there.open()
        ending = await client.ask(generation=GenerationSettings(max_step_tokens=20))
        cut(ending)
        assert ending.text == ""
        assert set(reasoning_of(client.events)) == {"x"}


async def test_reasoning_before_a_call_that_was_cut_is_no_answer() -> None:
    step = thinks("secret") + says("See: ") + calls(ROME)
    async with agent(step) as there:
        client = there.open(WEATHER)
        ending = await client.ask(
            generation=GenerationSettings(max_step_tokens=tokens_of(step) - 3)
        )
        assert ending.text == "See: "


async def test_a_prompt_beyond_the_context_window() -> None:
    async with agent_on(scripted(says("Yes."), context_tokens_max=100)) as there:
        client = there.open()
        ending = await client.ask("x" * 200)
        assert ending.outcome is TurnOutcome.FAILED
        assert ending.error is not None
        assert ending.error.reason is Reason.CONTEXT_WINDOW_EXCEEDED
        assert ending.error.metadata == {"prompt_tokens": "203", "limit": "100"}
        assert "203" in ending.error.message
        assert "100" in ending.error.message
        assert there.engine.specs == []
        assert (await client.ask("short")).text == "Yes."


@pytest.mark.parametrize(("length", "fits"), [(96, True), (97, False)])
async def test_the_context_window_is_exact_to_the_token(length: int, fits: bool) -> None:
    async with agent_on(scripted(says(""), context_tokens_max=100)) as there:
        ending = await there.open().ask("x" * length)
        if fits:
            assert ending.outcome is not TurnOutcome.FAILED
        else:
            assert ending.error is not None
            assert ending.error.reason is Reason.CONTEXT_WINDOW_EXCEEDED


async def test_a_step_may_fill_the_context_window_and_no_more() -> None:
    async with agent_on(scripted(says("y" * 200), context_tokens_max=100)) as there:
        client = there.open()
        ending = await client.ask("x" * 50)
        error = cut(ending)
        assert "context window" in error.message
        assert (error.field, error.metadata["limit"]) == ("", "100")
        [step] = client.of(StepCompleted)
        assert step.usage.input_tokens + step.usage.output_tokens == 100


async def test_results_beyond_the_context_window() -> None:
    engine = scripted(calls(ROME), says("Next."), context_tokens_max=300)
    async with agent_on(engine) as there:
        client = there.open(WEATHER, handler=answering("1" * 500))
        ending = await client.ask()
        error = cut(ending, Reason.CONTEXT_WINDOW_EXCEEDED)
        assert error.metadata["limit"] == "300"
        assert len(there.engine.specs) == 1
        [completed] = client.of(ToolCallCompleted)
        assert completed.outcome is ToolCallOutcome.RESULT
        assert (await client.ask("And now?")).text == "Next.", "the conversation can continue"
        assert '"too_large"' in prompt_text(there.engine.prompts[-1])
