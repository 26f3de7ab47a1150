"""A conversation: its turns one after another, and its lifecycle."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from precall_service.domain.errors import Reason, ServiceError
from precall_service.domain.events import (
    ToolCallCompleted,
    ToolCallOutcome,
    TraceContext,
    TurnCompleted,
    TurnOutcome,
    TurnStarted,
)
from precall_service.domain.turn import GenerationSettings, ToolChoice, ToolChoiceMode, TurnSpec
from tests.support.agent import (
    LIMITS,
    ROME,
    WEATHER,
    Client,
    agent,
    agent_limits,
    agent_on,
    scripted,
)
from tests.support.clock import settle
from tests.support.scripted_template import prompt_text
from tests.support.scripts import Pause, always, calls, never, says

IDLE_S = 600.0


async def refused(client: Client, reason: Reason, **turn: str) -> ServiceError:
    """Returns the error when the turn is refused, and checks that no event is sent."""
    told = len(client.events)
    with pytest.raises(ServiceError) as caught:
        await client.send(**turn)  # pyright: ignore[reportArgumentType]
    assert caught.value.reason is reason
    await settle()
    assert len(client.events) == told
    return caught.value


# Turns and their ids.


async def test_turns_follow_each_other() -> None:
    async with agent(says("One."), says("Two.")) as there:
        client = there.open(system_prompt="Count.")
        assert (await client.ask("a")).text == "One."
        assert (await client.ask("b")).text == "Two."
        first, second = there.engine.prompts
        assert prompt_text(second) == prompt_text(first) + "One.\n<user>b\n<model>"


async def test_one_turn_at_a_time() -> None:
    async with agent([never()]) as there:
        client = there.open()
        await client.send(turn_id="a")
        error = await refused(client, Reason.TURN_RUNNING, turn_id="b")
        assert error.metadata["running_turn_id"] == "a"


async def test_a_running_turn_that_is_sent_again_is_not_started_again() -> None:
    async with agent([never()]) as there:
        client = there.open()
        await client.send("hi", turn_id="a")
        told = len(client.events)
        await client.send("hi", turn_id="a")
        assert len(client.events) == told
        assert len(there.engine.prompts) == 1


async def test_the_ending_of_an_ended_turn_that_is_sent_again_is_sent_again() -> None:
    async with agent(says("Yes."), says("No."), [never()]) as there:
        client = there.open()
        for turn_id in ("a", "b"):
            await client.send("hi", turn_id=turn_id)
        await client.send("hi", turn_id="a")
        endings = [n for n in client.numbered if isinstance(n.event, TurnCompleted)]
        assert [ending.turn_id for ending in endings] == ["a", "b", "a"]
        assert endings[2].event is endings[0].event

        await client.send("hi", turn_id="c")
        await client.send("hi", turn_id="b")
        assert len(client.of(TurnCompleted)) == 4, "even while another turn runs"
        assert len(there.engine.prompts) == 3


async def test_a_turn_that_failed_after_it_began_is_not_run_again() -> None:
    async with agent([*says("Yes."), never()], says("Yes.")) as there:
        client = there.open()
        await client.send("hi", turn_id="a")
        there.engine.die()
        await settle()
        there.resize()
        await client.send("hi", turn_id="a")
        assert [ending.outcome for ending in client.of(TurnCompleted)] == [TurnOutcome.FAILED] * 2


async def test_a_turn_that_never_began_may_be_sent_again() -> None:
    async with agent(says("Yes.")) as there:
        client = there.open()
        there.engine.template_refusal = "no"
        await client.send("hi", turn_id="a")
        there.engine.template_refusal = ""
        await client.send("hi", turn_id="a")
        assert [ending.outcome for ending in client.of(TurnCompleted)] == [
            TurnOutcome.FAILED,
            TurnOutcome.ANSWERED,
        ]


async def test_a_turn_that_was_cancelled_before_its_first_step_starts_nothing_when_sent_again() -> (
    None
):
    async with agent([never()], says("Yes.")) as there:
        there.resize(slots=1)
        running, client = there.open(), there.open()
        await running.send("hi")
        await client.send("Hi.", turn_id="a")
        client.conversation.cancel_turn("a")
        await settle()
        client.conversation.cancel_turn("a")
        await running.vanish()
        await client.send("Hi.", turn_id="a")
        assert [ending.outcome for ending in client.of(TurnCompleted)] == [
            TurnOutcome.CANCELLED,
            TurnOutcome.CANCELLED,
        ]
        assert (await client.ask("And?")).text == "Yes."
        assert prompt_text(there.engine.prompts[-1]).count("Hi.") == 1


@pytest.mark.parametrize("running", [True, False])
async def test_a_turn_id_cannot_be_reused_for_another_text_or_other_settings(running: bool) -> None:
    async with agent([*says("Yes."), *([never()] if running else [])]) as there:
        client = there.open()
        await client.send("hi", turn_id="a")
        await refused(client, Reason.TURN_ID_REUSED, turn_id="a", text="ho")
        for other in (
            {"generation": GenerationSettings(seed=1)},
            {"limits": replace(LIMITS, max_steps=1)},
        ):
            with pytest.raises(ServiceError, match="new turn needs a new id"):
                await client.send("hi", turn_id="a", **other)  # pyright: ignore[reportArgumentType]


async def test_a_repeated_turn_may_have_another_trace_context() -> None:
    async with agent(says("Yes.")) as there:
        client = there.open()
        await client.send("hi", turn_id="a")
        spec = TurnSpec(
            turn_id="a",
            text="hi",
            generation=GenerationSettings(),
            limits=LIMITS,
            trace_context=TraceContext(traceparent=f"00-{'1' * 32}-{'2' * 16}-01"),
        )
        await client.conversation.start_turn(spec)
        await settle()
        assert len(client.of(TurnCompleted)) == 2


async def test_only_the_last_endings_are_remembered() -> None:
    engine = scripted(script=always(says("Yes.")))
    async with agent_on(engine, limits=agent_limits(ended_turns_max=2)) as there:
        client = there.open()
        for turn_id in ("a", "b", "c"):
            await client.send(turn_id=turn_id)
        await client.send(turn_id="b")
        assert len(engine.prompts) == 3
        told = len(client.numbered)
        await client.send(turn_id="a")
        assert len(engine.prompts) == 4, "forgotten: it is a new turn"
        del client.numbered[told:]  # else the final check would count two endings of one turn


async def test_a_conversation_has_a_limit_of_messages() -> None:
    async with agent(says("1"), says("2"), limits=agent_limits(messages_max=4)) as there:
        client = there.open()
        await client.ask()
        await client.ask()
        error = await refused(client, Reason.LIMIT_REACHED)
        assert "4 messages" in error.message
        assert error.metadata["limit"] == "4"


async def test_a_tool_choice_without_a_registered_tool_for_it_is_refused() -> None:
    async with agent() as there:
        client = there.open(WEATHER)
        choice = ToolChoice(mode=ToolChoiceMode.NAMED, tool_name="rain")
        with pytest.raises(ServiceError, match="registered tools: weather") as caught:
            await client.send(generation=GenerationSettings(tool_choice=choice))
        assert caught.value.reason is Reason.TOOL_CHOICE_INVALID

        choice = ToolChoice(mode=ToolChoiceMode.REQUIRED)
        with pytest.raises(ServiceError, match="no tool is registered") as caught:
            await there.open().send(generation=GenerationSettings(tool_choice=choice))
        assert caught.value.reason is Reason.TOOL_CHOICE_INVALID


# Cancels.


async def test_a_cancel_without_an_id_cancels_the_running_turn() -> None:
    async with agent([never()]) as there:
        client = there.open()
        await client.send()
        client.conversation.cancel_turn("")
        await settle()
        assert client.ending().outcome is TurnOutcome.CANCELLED


@pytest.mark.parametrize("turn_id", ["", "other"])
async def test_a_cancel_while_no_turn_runs_is_refused(turn_id: str) -> None:
    async with agent() as there:
        with pytest.raises(ServiceError) as caught:
            there.open().conversation.cancel_turn(turn_id)
        assert caught.value.reason is Reason.TURN_UNKNOWN


async def test_a_cancel_of_a_turn_that_is_not_the_running_one_is_refused() -> None:
    async with agent([never()]) as there:
        client = there.open()
        await client.send(turn_id="a")
        with pytest.raises(ServiceError, match="no turn 'b'"):
            client.conversation.cancel_turn("b")
        await settle()
        assert client.of(TurnCompleted) == []


async def test_a_cancel_of_a_turn_that_has_ended_does_nothing() -> None:
    async with agent(says("Yes."), [never()]) as there:
        client = there.open()
        await client.send(turn_id="a")
        client.conversation.cancel_turn("a")
        await client.send(turn_id="b")
        client.conversation.cancel_turn("a")
        await settle()
        assert [ending.outcome for ending in client.of(TurnCompleted)] == [TurnOutcome.ANSWERED]


# Lifecycle.


async def test_an_idle_conversation_that_is_drained_ends_immediately() -> None:
    async with agent() as there:
        client = there.open()
        client.conversation.drain()
        await settle()
        assert client.running.done()
        assert client.conversation.error is None
        with pytest.raises(ServiceError) as caught:
            await client.send()
        assert caught.value.reason is Reason.CANCELLED


async def test_a_conversation_that_is_drained_during_a_turn_ends_after_it() -> None:
    hold = asyncio.Event()
    async with agent([Pause(hold), *says("Yes.")]) as there:
        client = there.open()
        await client.send()
        draining = ServiceError(Reason.DRAINING, "the server is shutting down")
        client.conversation.drain(draining)
        client.conversation.drain(ServiceError(Reason.INTERNAL, "too late"))
        await settle()
        assert not client.running.done()
        with pytest.raises(ServiceError) as caught:
            await client.send(turn_id="other")
        assert caught.value is draining
        hold.set()
        await settle()
        assert client.running.done()
        assert client.ending().text == "Yes."
        assert client.conversation.error is draining


async def test_a_turn_that_was_accepted_just_before_a_drain_is_run() -> None:
    async with agent(says("Yes.")) as there:
        client = there.open()
        sending = asyncio.ensure_future(client.send())
        await asyncio.sleep(0)
        client.conversation.drain()
        await sending
        assert client.ending().text == "Yes."


async def test_a_client_that_hangs_up_gets_its_answer_without_its_tools() -> None:
    async with agent(calls(ROME), calls(ROME), says("Sorry.")) as there:
        client = there.open(WEATHER)
        await client.send()
        client.conversation.hang_up()
        await settle()
        assert client.running.done()
        assert client.ending().text == "Sorry."
        outcomes = [call.outcome for call in client.of(ToolCallCompleted)]
        assert outcomes == [ToolCallOutcome.UNAVAILABLE] * 2


async def test_an_idle_conversation_expires() -> None:
    async with agent() as there:
        client = there.open()
        client.conversation.renew()
        await there.advance(IDLE_S - 1)
        client.conversation.renew()
        await there.advance(IDLE_S - 1)
        assert not client.running.done()
        await there.advance(1)
        assert client.running.done()
        error = client.conversation.error
        assert error is not None
        assert error.reason is Reason.CONVERSATION_EXPIRED
        assert "600 s" in error.message


async def test_a_conversation_does_not_expire_while_a_turn_runs() -> None:
    hold = asyncio.Event()
    async with agent([Pause(hold), *says("Yes.")]) as there:
        client = there.open()
        client.conversation.renew()
        await client.send(limits=replace(LIMITS, max_duration_s=10 * IDLE_S))
        await there.advance(3 * IDLE_S)
        hold.set()
        await settle()
        assert client.ending().text == "Yes."
        await there.advance(IDLE_S - 1)
        assert not client.running.done()
        await there.advance(1)
        assert client.running.done()


async def test_an_ended_conversation_leaves_no_timer() -> None:
    async with agent() as there:
        client = there.open()
        client.conversation.renew()
        client.conversation.drain()
        await settle()
        client.conversation.renew()  # a frame that was still in transit
        assert there.clock.pending == 1, "that of the next look at the engine"


async def test_a_client_that_vanishes_before_its_turn_runs() -> None:
    async with agent() as there:
        client = there.open()
        sending = asyncio.ensure_future(client.send())
        await asyncio.sleep(0)
        await client.vanish()
        await sending
        assert client.of(TurnStarted) == []
