"""Starting turns: refusals and their reasons, repeated turns, and turns cut by a limit."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from itertools import groupby

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from precall.v1 import generation_pb2, tool_pb2, turn_pb2
from precall_service.engine.base import GenerationRefusedError, StrayCall
from tests.support.scripted_engine import INFO
from tests.support.scripted_template import prompt_text
from tests.support.scripts import Ends, Pause, always, calls, in_turn, says, thinks
from tests.support.stream import WEATHER, StreamDriver, running_server
from tests.support.wire import Failure, failure, said, seconds

HELLO = always(says("Hello."))
CALL = calls(("weather", '{"city":"Rome"}'))

Generation = generation_pb2.GenerationSettings
Limits = turn_pb2.TurnLimits
Choice = generation_pb2.ToolChoice
StartTurn = turn_pb2.StartTurn


def required(mode: generation_pb2.ToolChoiceMode.ValueType, name: str = "") -> Generation:
    return Generation(tool_choice=Choice(mode=mode, tool_name=name))


async def test_a_choice_of_calls_needs_tools() -> None:
    async with running_server(HELLO) as server:
        bare, other = await server.opened(), await server.opened(WEATHER)
        for stream, generation, field in (
            (bare, required(generation_pb2.TOOL_CHOICE_MODE_REQUIRED), "mode"),
            (bare, required(generation_pb2.TOOL_CHOICE_MODE_NAMED, "weather"), "tool_name"),
            (other, required(generation_pb2.TOOL_CHOICE_MODE_NAMED, "wether"), "tool_name"),
        ):
            error = await stream.refused(await stream.start(generation=generation))
            assert error.reason == "TOOL_CHOICE_INVALID"
            assert error.field == f"start_turn.generation.tool_choice.{field}"
        assert "weather" in error.message, "the refusal lists the tools"
        await bare.close()
        await other.close()


async def test_a_tool_choice_applies_to_the_first_step_but_none_to_all_steps() -> None:
    async with running_server(in_turn(CALL, says("Warm."), says("No."))) as server:
        stream = await server.opened(WEATHER)
        named = required(generation_pb2.TOOL_CHOICE_MODE_NAMED, "weather")
        await stream.start(generation=named)
        await stream.answer((await stream.invoked()).invocation_id)
        await stream.completed()
        await stream.ask(turn_id="t2", generation=required(generation_pb2.TOOL_CHOICE_MODE_NONE))
        modes = [spec.tool_choice.mode.value for spec in server.engine.specs]
        assert modes == ["named", "auto", "none"]
        await stream.close()


async def test_a_turn_while_one_runs_is_refused() -> None:
    done = asyncio.Event()
    async with running_server(in_turn([Pause(done), *says("One.")], says("Two."))) as server:
        stream = await server.opened()
        await stream.start("One?")
        await stream.expect("turn_started")
        error = await stream.refused(await stream.start("Two?", "t2"))
        assert error.reason == "TURN_RUNNING"
        assert error.code is grpc.StatusCode.FAILED_PRECONDITION
        assert error.metadata["running_turn_id"] == "t1"
        done.set()
        assert (await stream.completed()).text == "One."
        assert (await stream.ask("Two?", "t2")).text == "Two."
        await stream.close()


async def test_a_running_turn_that_is_sent_again_runs_once() -> None:
    done = asyncio.Event()
    async with running_server(in_turn([Pause(done), *says("One.")])) as server:
        stream = await server.opened()
        await stream.start()
        await stream.expect("turn_started")
        await stream.start()
        await stream.send()
        await stream.expect("frame_rejected")
        done.set()
        assert (await stream.completed()).text == "One."
        await stream.close()
        assert stream.kinds().count("frame_rejected") == 1
        assert stream.kinds().count("turn_completed") == 1


async def test_an_ended_turn_that_is_sent_again_gets_the_same_ending() -> None:
    async with running_server(in_turn(says("One."), says("Two."))) as server:
        stream = await server.opened()
        first = await stream.ask()
        assert (await stream.ask(turn_id="t2")).text == "Two."
        assert await stream.ask() == first
        assert len(server.engine.prompts) == 2
        await stream.close()


async def test_a_turn_may_be_sent_again_in_another_trace() -> None:
    async with running_server(in_turn(says("One."))) as server:
        stream = await server.opened()
        first = await stream.ask()
        again = StartTurn(turn_id="t1", content=said("Hi."))
        again.trace_context.traceparent = f"00-{'a' * 32}-{'b' * 16}-01"
        await stream.send("start_turn", again)
        assert await stream.completed() == first
        await stream.close()


@pytest.mark.parametrize(
    "other",
    [
        StartTurn(turn_id="t1", content=said("Else.")),
        StartTurn(turn_id="t1", content=said("Hi."), generation=Generation(seed=1)),
        StartTurn(turn_id="t1", content=said("Hi."), limits=Limits(max_steps=1)),
        StartTurn(
            turn_id="t1",
            content=said("Hi."),
            generation=required(generation_pb2.TOOL_CHOICE_MODE_NONE),
        ),
    ],
    ids=["text", "generation", "limits", "tool choice"],
)
async def test_a_turn_id_cannot_be_used_for_another_turn(other: StartTurn) -> None:
    done = asyncio.Event()
    async with running_server(in_turn([Pause(done), *says("One.")])) as server:
        stream = await server.opened()
        await stream.start()
        await stream.expect("turn_started")
        for _ in range(2):  # while the turn runs, and after its end
            error = await stream.refused(await stream.send("start_turn", other))
            assert error.reason == "TURN_ID_REUSED"
            assert error.code is grpc.StatusCode.ALREADY_EXISTS
            assert error.field == "start_turn.turn_id"
            if not done.is_set():
                done.set()
                await stream.completed()
        await stream.close()


async def test_an_invalid_trace_context_is_ignored() -> None:
    async with running_server(HELLO) as server:
        stream = await server.opened()
        for number, parent in enumerate(("nonsense", "00-zz-zz-zz", "\x00", "é" * 5000)):
            bad = StartTurn(turn_id=f"t{number}", content=said("Hi."))
            bad.trace_context.traceparent = parent
            bad.trace_context.tracestate = parent
            await stream.send("start_turn", bad)
            assert (await stream.completed(f"t{number}")).text == "Hello."
        await stream.close()


async def test_a_lost_call_ends_its_turn_as_no_call() -> None:
    async with running_server(always([Ends(stray_call=StrayCall.REASONING)])) as server:
        stream = await server.opened(WEATHER)
        await stream.start()
        ended = await stream.completed()
        assert ended.outcome == turn_pb2.TURN_OUTCOME_NO_CALL
        error = failure(ended.error)
        assert (error.reason, error.metadata) == ("CALL_LOST", {"stray_call": "reasoning"})
        assert error.retry_after_s is None
        await stream.close()


def limit(ended: turn_pb2.TurnCompleted, field: str) -> Failure:
    """The error of a turn that a limit cut."""
    assert ended.outcome == turn_pb2.TURN_OUTCOME_LIMIT
    error = failure(ended.error)
    assert error.reason == "LIMIT_REACHED"
    assert error.field == f"start_turn.{field}"
    assert error.metadata["limit"] in error.message
    return error


async def test_a_prompt_beyond_the_context_window_is_refused_with_the_numbers() -> None:
    async with running_server(HELLO) as server:
        stream = await server.opened()
        ended = await stream.ask("x" * 9000)
        assert ended.outcome == turn_pb2.TURN_OUTCOME_FAILED
        error = failure(ended.error)
        assert error.reason == "CONTEXT_WINDOW_EXCEEDED"
        assert error.metadata["limit"] == "8192"
        assert int(error.metadata["prompt_tokens"]) > 9000
        assert error.metadata["prompt_tokens"] in error.message
        assert "8192" in error.message
        assert (await stream.ask("Hi.", "t2")).text == "Hello."
        await stream.close()


async def test_a_limit_on_tokens_cuts_the_answer_and_keeps_its_text() -> None:
    async with running_server(always(says(*["word "] * 10))) as server:
        stream = await server.opened()
        by_step = await stream.ask(generation=Generation(max_step_tokens=12))
        assert limit(by_step, "generation.max_step_tokens").metadata["limit"] == "12"
        assert by_step.text == "word word wo"
        by_turn = await stream.ask(turn_id="t2", limits=Limits(max_turn_tokens=7))
        assert limit(by_turn, "limits.max_turn_tokens").metadata["limit"] == "7"
        assert by_turn.text == "word wo"
        assert (await stream.ask(turn_id="t3")).outcome == turn_pb2.TURN_OUTCOME_ANSWERED
        await stream.close()


async def test_a_limit_on_steps_ends_a_turn_that_never_stops_calling() -> None:
    async with running_server(always(CALL)) as server:
        stream = await server.opened(WEATHER)
        await stream.start(limits=Limits(max_steps=2))
        await stream.answer((await stream.invoked()).invocation_id)
        ended = await stream.completed()
        assert limit(ended, "limits.max_steps").metadata["limit"] == "2"
        assert ended.report.steps == 2
        assert "invoke" not in stream.kinds()[stream.kinds().index("tool_call_completed") :]
        await stream.close()


async def test_a_limit_on_wall_time_ends_a_turn() -> None:
    never = asyncio.Event()
    async with running_server(in_turn([*says("So far"), Pause(never)])) as server:
        stream = await server.opened()
        await stream.start(limits=Limits(max_duration=Duration(seconds=3)))
        await stream.expect("text_delta")
        server.clock.advance(3.5)
        ended = await stream.completed()
        assert ended.outcome == turn_pb2.TURN_OUTCOME_LIMIT
        assert ended.text == "So far"
        error = failure(ended.error)
        assert error.reason == "TURN_TIMEOUT"
        assert error.field == "start_turn.limits.max_duration"
        assert seconds(ended.report.wall_time) == 3.5
        await server.nothing_is_generated()
        await stream.close()


async def test_a_refusal_by_the_engine_ends_the_turn_with_its_message() -> None:
    refusal = GenerationRefusedError("temperature and beam search exclude each other")
    async with running_server(in_turn([refusal], says("Hello."))) as server:
        stream = await server.opened()
        ended = await stream.ask()
        assert ended.outcome == turn_pb2.TURN_OUTCOME_FAILED
        error = failure(ended.error)
        assert error.reason == "FIELD_INVALID"
        assert "beam search" in error.message
        assert (await stream.ask(turn_id="t2")).text == "Hello."
        await stream.close()


async def test_after_a_failure_the_conversation_is_unchanged() -> None:
    broken = [*says("half"), GenerationRefusedError("no")]
    async with running_server(in_turn(says("One."), broken, says("Three."))) as server:
        stream = await server.opened()
        await stream.ask("First?")
        assert (await stream.ask("Second?", "t2")).outcome == turn_pb2.TURN_OUTCOME_FAILED
        await stream.ask("Third?", "t3")
        prompt = prompt_text(server.engine.prompts[-1])
        assert "Second?" not in prompt
        assert "half" not in prompt
        assert prompt.index("First?") < prompt.index("One.") < prompt.index("Third?")
        await stream.close()


async def test_a_conversation_has_a_limit_of_messages() -> None:
    async with running_server(HELLO, conversations={"messages_max": 4}) as server:
        stream = await server.opened()
        await stream.ask(turn_id="t1")
        await stream.ask(turn_id="t2")
        error = await stream.refused(await stream.start(turn_id="t3"))
        assert error.reason == "LIMIT_REACHED"
        assert error.field == "start_turn"
        assert error.metadata["limit"] == "4"
        await stream.close()


async def test_the_events_of_a_turn_come_in_the_order_of_the_contract() -> None:
    script = in_turn([*thinks("Hm."), *says("Let me ", "see."), *CALL], says("Warm."))
    async with running_server(script) as server:
        stream = await server.opened(WEATHER)
        await stream.start()
        await stream.answer((await stream.invoked()).invocation_id, '"30 C"')
        ended = await stream.completed()
        await stream.close()
    # Pieces of one text may be joined, as fast as they come here.
    assert [kind for kind, _ in groupby(stream.kinds()[1:])] == [
        "turn_started",
        "step_started",
        "reasoning_delta",
        "text_delta",
        "tool_call_started",
        "tool_call_arguments_delta",
        "tool_call_ready",
        "step_completed",
        "invoke",
        "tool_call_completed",
        "step_started",
        "text_delta",
        "step_completed",
        "turn_completed",
    ]
    steps = [e.step_completed for e in stream.events if e.HasField("step_completed")]
    assert [step.finish_reason for step in steps] == [
        turn_pb2.STEP_FINISH_REASON_TOOL_CALLS,
        turn_pb2.STEP_FINISH_REASON_STOP,
    ]
    assert ended.text == "Warm."
    assert (ended.report.steps, ended.report.tool_calls) == (2, 1)
    used = ended.report.usage
    assert used.input_tokens == sum(step.usage.input_tokens for step in steps)
    assert used.output_tokens == sum(step.usage.output_tokens for step in steps)
    assert used.reasoning_tokens == len("Hm.")


async def test_conversations_are_isolated_from_each_other() -> None:
    async with running_server(HELLO) as server:
        mine, theirs = await server.opened(WEATHER), await server.opened()
        await mine.ask("My secret is 42.")
        await theirs.ask("What is the secret?")
        prompt = prompt_text(server.engine.prompts[-1])
        assert "42" not in prompt
        assert "weather" not in prompt
        assert not server.engine.specs[-1].tools
        error = await theirs.refused(
            await theirs.send("cancel_turn", turn_pb2.CancelTurn(turn_id="t1x"))
        )
        assert error.reason == "TURN_UNKNOWN"
        withdraw = tool_pb2.WithdrawTools(names=["weather"])
        await theirs.send("withdraw_tools", withdraw)
        answer = (await theirs.expect("tools_withdrawn")).tools_withdrawn
        assert list(answer.unknown_names) == ["weather"]
        await close_all(mine, theirs)


async def test_a_waiting_turn_gets_its_queue_position() -> None:
    done, then = asyncio.Event(), asyncio.Event()
    script = in_turn([Pause(done), *says("One.")], [Pause(then), *says("Two.")], says("Three."))
    one = replace(INFO, sequences_max=1)
    async with running_server(script, info=one, admission={"waiting_max": 4}) as server:
        streams = [await server.opened() for _ in range(4)]
        first, second, third, fourth = streams
        await first.start()
        await first.expect("turn_started")
        await second.start()
        assert (await second.expect("turn_queued")).turn_queued.position == 0
        await third.start()
        assert (await third.expect("turn_queued")).turn_queued.position == 1
        ended = await fourth.ask()
        error = failure(ended.error)
        assert error.reason == "OVERLOADED"
        assert error.retry_after_s is not None
        done.set()
        assert (await first.completed()).text == "One."
        server.clock.advance(1.0)
        assert (await third.expect("turn_queued")).turn_queued.position == 0
        then.set()
        assert (await second.completed()).text == "Two."
        assert (await third.completed()).text == "Three."
        await close_all(*streams)


async def close_all(*streams: StreamDriver) -> None:
    for stream in streams:
        await stream.close()
