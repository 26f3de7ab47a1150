"""Turns: their events, their answer, and every way in which they end."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import precall
from precall import (
    Client,
    Event,
    ReasoningDelta,
    StepCompleted,
    StepFinishReason,
    StepStarted,
    TextDelta,
    TokenUsage,
    ToolCallArgumentsDelta,
    ToolCallCompleted,
    ToolCallOutcome,
    ToolCallReady,
    ToolCallStarted,
    ToolNamed,
    TurnCompleted,
    TurnOutcome,
    TurnStarted,
)
from precall.testing import Call, Disconnect, Fail, FakeServer, Hang, Limit, NoCall, Refuse, Say
from precall.v1 import generation_pb2
from tests.clients.helpers import FAST, talking


async def add(left: int, right: int) -> int:
    return left + right


SUM = [Call("add", {"left": 1, "right": 2}, text="Adding."), Say("It is 3.", reasoning="So.")]


async def test_the_events_of_a_turn_come_in_order() -> None:
    async with talking(SUM, tools=(add,)) as (_, conversation):
        events: list[Event] = [event async for event in conversation.send("1 + 2?", turn_id="t")]
    usage = TokenUsage(output_tokens=1)
    usage_2 = TokenUsage(output_tokens=2)
    assert events[:-1] == [
        TurnStarted(0.0),
        StepStarted(0, 10),
        TextDelta("Adding."),
        ToolCallStarted("call-t-1", "add"),
        ToolCallArgumentsDelta("call-t-1", '{"left": 1,'),
        ToolCallArgumentsDelta("call-t-1", ' "right": 2}'),
        ToolCallReady("call-t-1", "add", '{"left": 1, "right": 2}'),
        StepCompleted(0, StepFinishReason.TOOL_CALLS, usage),
        ToolCallCompleted(
            "call-t-1", ToolCallOutcome.RESULT, "3", source=precall.ResultSource.COMMITTED
        ),
        StepStarted(1, 20),
        ReasoningDelta("So."),
        TextDelta("It"),
        TextDelta(" is"),
        TextDelta(" 3."),
        StepCompleted(1, StepFinishReason.STOP, usage_2),
    ]
    assert isinstance(events[-1], TurnCompleted)
    assert (events[-1].text, events[-1].report.tool_calls) == ("It is 3.", 1)


async def test_an_answer_holds_the_turn() -> None:
    async with talking(SUM, tools=(add,)) as (_, conversation):
        answer = await conversation.ask("1 + 2?", turn_id="t")
    assert (str(answer), answer.outcome, answer.reasoning) == (
        "It is 3.", TurnOutcome.ANSWERED, "So.",
    )  # fmt: skip
    assert (answer.turn_id, answer.report.steps, answer.error) == ("t", 2, None)
    (call,) = answer.tool_calls
    assert (call.tool_name, call.arguments, call.result) == ("add", {"left": 1, "right": 2}, 3)


async def test_a_turn_can_be_awaited() -> None:
    async with talking([Say("yes")]) as (_, conversation):
        assert str(await conversation.send("?")) == "yes"


@pytest.mark.parametrize("reason", ["LIMIT_REACHED", "TURN_TIMEOUT"])
async def test_a_limit_is_an_outcome_and_the_text_so_far_stands(reason: str) -> None:
    async with talking([Limit(reason, "So far", "too long")]) as (_, conversation):
        answer = await conversation.ask("?", timeout_s=60)
    assert (answer.outcome, str(answer)) == (TurnOutcome.LIMIT, "So far")
    assert isinstance(answer.error, precall.LimitReachedError)
    assert (answer.error.reason, answer.error.message) == (reason, "too long")


@pytest.mark.parametrize("reason", ["CALL_LOST", "CALL_MISSING", "CALL_STOPPED"])
async def test_a_turn_without_its_call_raises_and_can_be_sent_again(reason: str) -> None:
    async with talking([NoCall(reason, "So", message="no")], [Say("yes")]) as (_, conversation):
        with pytest.raises(precall.NoCallError) as caught:
            await conversation.ask("?")
        assert (caught.value.reason, caught.value.message) == (reason, "no")
        lost = {"stray_call": "lost"} if reason == "CALL_LOST" else {}
        assert caught.value.metadata == lost
        assert str(await conversation.ask("?")) == "yes"


def test_a_call_that_was_cut_has_no_arguments() -> None:
    assert precall.ToolCall("c", "add", "").arguments is None


async def test_events_come_once_and_the_answer_comes_any_number_of_times() -> None:
    async with talking([Say("yes")]) as (_, conversation):
        turn = conversation.send("?")
        async for _ in turn:
            pass
        with pytest.raises(RuntimeError, match="come once"):
            aiter(turn)
        assert await turn.answer() is await turn.answer()


async def test_options_reach_the_server() -> None:
    called = Call("add", {"left": 1, "right": 2})
    scripts = ([called, Say("yes")] for _ in range(3))
    async with talking(*scripts, tools=(add,)) as (server, conversation):
        await conversation.ask(
            "?", temperature=0.5, top_p=0.9, top_k=3, seed=7, max_step_tokens=10, stop=["END"],
            tool_choice=ToolNamed("add"), max_steps=2, max_turn_tokens=20, timeout_s=1.5,
        )  # fmt: skip
        await conversation.ask("?", tool_choice="required")
        await conversation.ask("?")
    full, required, plain = [turn.frame for turn in server.turns]
    choice = generation_pb2.ToolChoice(mode=generation_pb2.TOOL_CHOICE_MODE_NAMED, tool_name="add")
    assert full.generation == generation_pb2.GenerationSettings(
        temperature=0.5,
        top_p=0.9,
        top_k=3,
        seed=7,
        max_step_tokens=10,
        stop=["END"],
        tool_choice=choice,
    )
    assert (full.limits.max_steps, full.limits.max_turn_tokens) == (2, 20)
    assert full.limits.max_duration.ToMilliseconds() == 1500
    assert required.generation.tool_choice.mode == generation_pb2.TOOL_CHOICE_MODE_REQUIRED
    assert plain.generation == generation_pb2.GenerationSettings()
    assert not plain.limits.HasField("max_duration")


@pytest.mark.parametrize(
    ("options", "kind", "says"),
    [
        (
            {"max_step_tokens": 0},
            ValueError,
            "max_step_tokens is 0, and must be a whole number of",
        ),
        ({"max_steps": -1}, ValueError, "max_steps is -1"),
        ({"max_turn_tokens": 2**32}, ValueError, "max_turn_tokens is 4294967296"),
        ({"seed": 2**63}, ValueError, "seed is"),
        (
            {"timeout_s": float("inf")},
            ValueError,
            "timeout_s is inf, and must be a number of seconds",
        ),
        ({"timeout_s": "5"}, TypeError, "timeout_s is '5'"),
        ({"max_step_tokens": 1.5}, TypeError, r"max_step_tokens is 1\.5"),
        (
            {"max_step_token": 5},
            TypeError,
            "no option 'max_step_token'; did you mean 'max_step_tokens'",
        ),
        ({"zzz": 5}, TypeError, "no option 'zzz'$"),
        ({"tool_choice": 7}, TypeError, 'tool_choice is 7, and must be "auto", "none"'),
        ({"tool_choice": "add"}, ValueError, "tool_choice is 'add'.* or ToolNamed"),
        ({"tool_choice": add}, ValueError, "tool_choice is <function add.*not a tool of this"),
        ({"stop": "END"}, TypeError, "stop is 'END', and must be a list of strings"),
        ({"turn_id": 7}, TypeError, "turn_id is 7, and must be a string"),
    ],
)
def test_invalid_options_are_refused_by_name(
    options: dict[str, Any], kind: type[Exception], says: str
) -> None:
    with pytest.raises(kind, match=says):
        Client("localhost:1").conversation().send("?", **options)


def test_a_message_is_a_string() -> None:
    with pytest.raises(TypeError, match="text is 123, and must be a string"):
        Client("localhost:1").conversation().send(123)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("ENGINE_UNAVAILABLE", precall.EngineUnavailableError),
        ("CONTEXT_WINDOW_EXCEEDED", precall.ContextWindowExceededError),
        ("INTERNAL", precall.ServerError),
    ],
)
async def test_a_failed_turn_raises_and_the_conversation_goes_on(
    reason: str, kind: type[precall.PrecallError]
) -> None:
    script = [Call("add", {"left": 1, "right": 1}), Fail(reason, "sorry", 2.0)]
    async with talking(script, [Say("again")], tools=(add,)) as (_, conversation):
        with pytest.raises(kind, match="sorry") as caught:
            await conversation.ask("?")
        assert (caught.value.reason, caught.value.retry_after_s) == (reason, 2.0)
        assert str(await conversation.ask("?")) == "again"


async def test_a_refused_turn_raises_and_the_conversation_goes_on() -> None:
    script = [Refuse("FIELD_INVALID", "start_turn.text is too odd")]
    async with talking(script, [Say("fine")]) as (_, conversation):
        with pytest.raises(precall.InvalidArgumentError, match="too odd"):
            async for _ in conversation.send("?"):
                pass
        assert str(await conversation.ask("?")) == "fine"


async def test_one_turn_at_a_time() -> None:
    async with talking([Hang("...")], [Say("next")]) as (_, conversation):
        turn = conversation.send("first")
        events = aiter(turn)
        await anext(events)
        with pytest.raises(precall.TurnRunningError, match=turn.turn_id):
            await conversation.ask("second")
        await turn.cancel()
        await turn.cancel()
        answer = await turn.answer()
        assert (answer.outcome, answer.text) == (TurnOutcome.CANCELLED, "...")
        assert str(await conversation.ask("third")) == "next"


async def test_leaving_the_loop_cancels_the_turn_and_the_next_one_may_start_at_once() -> None:
    ended = asyncio.Event()

    async def endless() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    async with talking([Call("endless")], [Say("next")], tools=(endless,)) as (
        server,
        conversation,
    ):
        async for event in conversation.send("first"):
            if isinstance(event, StepCompleted):
                break
        assert str(await conversation.ask("second")) == "next"
        await asyncio.wait_for(ended.wait(), 5)
    frames = [frame.WhichOneof("frame") for frame in server.frames]
    assert frames.count("cancel_turn") == 1


async def test_cancelling_the_task_cancels_the_turn() -> None:
    async with talking([Hang("...")], [Say("next")]) as (server, conversation):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await conversation.ask("first")
        assert str(await conversation.ask("second")) == "next"
    assert "cancel_turn" in [frame.WhichOneof("frame") for frame in server.frames]


@pytest.mark.parametrize(
    ("ending", "kind"),
    [
        (Disconnect(), precall.ConnectionLostError),
        (Disconnect("CONVERSATION_EXPIRED"), precall.ConversationUnknownError),
        (Disconnect("DRAINING", retry_after_s=2.0), precall.UnavailableError),
    ],
)
async def test_a_conversation_that_has_ended_raises_its_ending_from_then_on(
    ending: Disconnect, kind: type[precall.PrecallError]
) -> None:
    async with talking([ending]) as (_, conversation):
        with pytest.raises(kind, match="broke the stream") as first:
            await conversation.ask("?")
        for use in (conversation.ask("again?"), conversation.add_tool(add)):
            with pytest.raises(kind, match=r"has ended, open another one: .*broke the") as later:
                await use
            assert type(later.value) is type(first.value)
            assert later.value.__cause__ is first.value
            assert (later.value.reason, later.value.retry_after_s) == (
                ending.reason, ending.retry_after_s,
            )  # fmt: skip


async def test_a_lost_stream_ends_its_handlers() -> None:
    ended = asyncio.Event()
    started = asyncio.Event()

    async def endless() -> None:
        started.set()
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    async with talking([Call("endless")], tools=(endless,)) as (server, conversation):
        waiting = asyncio.ensure_future(conversation.ask("?"))
        await asyncio.wait_for(started.wait(), 5)
        await server.stop()
        with pytest.raises(precall.ConnectionLostError):
            await waiting
        await asyncio.wait_for(ended.wait(), 5)


async def test_a_turn_that_was_never_begun_can_be_cancelled() -> None:
    async with talking([Say("yes")]) as (server, conversation):
        await conversation.send("?").cancel()
        assert not server.turns


async def test_closing_the_conversation_ends_its_turn() -> None:
    async with FakeServer([Hang()]) as server, Client(server.address, options=FAST) as client:
        conversation = await client.conversation().open()
        turn = conversation.send("?")
        async for _ in turn:
            await conversation.close()
            break
        with pytest.raises(precall.ConversationClosedError):
            await turn.answer()
