"""A cancel in any phase of a turn: the turn ends once, its runs are cancelled, nothing is left."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import grpc
import pytest

from precall.v1 import agent_pb2, invocation_pb2, turn_pb2
from tests.support.scripted_engine import INFO
from tests.support.scripted_template import prompt_text
from tests.support.scripts import Pause, Script, calls, in_turn, says
from tests.support.stream import WEATHER, StreamDriver, eventually, running_server
from tests.support.wire import failure

BOTH = calls(("weather", '{"city":"Rome"}'), ("weather", '{"city":"Bari"}'))


def held(*said: str) -> Script:
    """A script of two steps: one that generates this text and never ends, and one that answers."""
    return in_turn([*says(*said), Pause(asyncio.Event())], says("Hello."))


async def cancel(stream: StreamDriver, turn_id: str = "") -> None:
    await stream.send("cancel_turn", turn_pb2.CancelTurn(turn_id=turn_id))


async def cancelled(stream: StreamDriver) -> turn_pb2.TurnCompleted:
    """Waits for the ending of the cancelled turn, and checks that the next turn is answered."""
    ended = await stream.completed()
    assert ended.outcome == turn_pb2.TURN_OUTCOME_CANCELLED
    assert (await stream.ask(turn_id="next")).text == "Hello."
    await stream.close()
    assert stream.kinds().count("turn_completed") == 2
    return ended


@pytest.mark.parametrize("turn_id", ["", "t1"], ids=["the running turn", "by id"])
async def test_while_it_generates(turn_id: str) -> None:
    async with running_server(held("So far")) as server:
        stream = await server.opened()
        await stream.start()
        await stream.expect("text_delta")
        await cancel(stream, turn_id)
        finish = (await stream.expect("step_completed")).step_completed.finish_reason
        assert finish == turn_pb2.STEP_FINISH_REASON_ABORTED
        ended = await cancelled(stream)
        assert ended.text == "So far"
        assert "So far" in prompt_text(server.engine.prompts[-1]), "the text so far is kept"


async def test_while_it_waits_for_admission() -> None:
    one = replace(INFO, sequences_max=1)
    async with running_server(held("First"), info=one) as server:
        first, stream = await server.opened(), await server.opened()
        await first.start()
        await first.expect("text_delta")
        await stream.start()
        await stream.expect("turn_queued")
        await cancel(stream)
        ended = await stream.completed()
        assert ended.outcome == turn_pb2.TURN_OUTCOME_CANCELLED
        assert ended.report.steps == 0
        assert "turn_started" not in stream.kinds()
        assert server.services.admission.waiting == 0
        await stream.close()
        await cancel(first)
        await cancelled(first)


async def test_while_its_tools_run() -> None:
    async with running_server(in_turn(BOTH, says("Hello."))) as server:
        stream = await server.opened(WEATHER)
        await stream.start()
        runs = [await stream.invoked(), await stream.invoked()]
        await cancel(stream)
        cancels = [(await stream.expect("cancel_invocation")).cancel_invocation for _ in runs]
        assert {run.invocation_id for run in runs} == {cancel.invocation_id for cancel in cancels}
        assert {cancel.reason for cancel in cancels} == {
            invocation_pb2.INVOCATION_CANCEL_REASON_TURN_ENDED
        }
        for run in runs:
            completed = await stream.call_completed()
            assert completed.outcome == turn_pb2.TOOL_CALL_OUTCOME_CANCELLED
            assert failure(completed.error).reason == "CANCELLED"
            owed = invocation_pb2.InvocationResult(
                invocation_id=run.invocation_id, cancelled=invocation_pb2.InvocationCancelled()
            )
            await stream.send("invocation_result", owed)
        await cancelled(stream)
        assert "frame_rejected" not in stream.kinds()


async def test_between_the_results_of_its_tools() -> None:
    async with running_server(in_turn(BOTH, says("Hello."))) as server:
        stream = await server.opened(WEATHER)
        await stream.start()
        first, second = await stream.invoked(), await stream.invoked()
        await stream.answer(first.invocation_id, '"30 C"')
        assert (await stream.call_completed()).outcome == turn_pb2.TOOL_CALL_OUTCOME_RESULT
        await cancel(stream)
        sent = (await stream.expect("cancel_invocation")).cancel_invocation
        assert sent.invocation_id == second.invocation_id
        await cancelled(stream)
        prompt = prompt_text(server.engine.prompts[-1])
        assert prompt.count("<tool>") == 2, "every call has an answer, even the cancelled one"
        assert "30 C" in prompt


async def test_in_the_frame_after_its_start() -> None:
    async with running_server(held("So far")) as server:
        stream = await server.opened()
        await stream.start()
        await cancel(stream, "t1")
        ended = await stream.completed()
        assert ended.outcome == turn_pb2.TURN_OUTCOME_CANCELLED
        await stream.close()


async def test_a_second_cancel_has_no_effect() -> None:
    async with running_server(held("So far")) as server:
        stream = await server.opened()
        await stream.start()
        await stream.expect("text_delta")
        await cancel(stream)
        await cancel(stream, "t1")
        await cancelled(stream)
        assert "frame_rejected" not in stream.kinds()


async def test_cancelling_a_turn_that_has_just_ended_is_no_error() -> None:
    async with running_server(in_turn(says("One."), says("Hello."))) as server:
        stream = await server.opened()
        first = await stream.ask()
        await cancel(stream, "t1")
        assert await stream.ask() == first, "its ending must not change"
        assert (await stream.ask(turn_id="t2")).text == "Hello."
        await stream.close()
        assert "frame_rejected" not in stream.kinds()


async def test_cancelling_a_turn_that_does_not_run_is_refused() -> None:
    async with running_server(held("So far")) as server:
        stream = await server.opened()
        for turn_id in ("", "t1"):
            number = await stream.send("cancel_turn", turn_pb2.CancelTurn(turn_id=turn_id))
            error = await stream.refused(number)
            assert error.reason == "TURN_UNKNOWN"
            assert error.code is grpc.StatusCode.NOT_FOUND
            assert error.field == "cancel_turn.turn_id"
        await stream.start()
        await stream.expect("text_delta")
        number = await stream.send("cancel_turn", turn_pb2.CancelTurn(turn_id="t2"))
        assert (await stream.refused(number)).reason == "TURN_UNKNOWN"
        await cancel(stream)
        await cancelled(stream)


async def test_closing_the_conversation_cancels_its_turn() -> None:
    async with running_server(in_turn(BOTH)) as server:
        stream = await server.opened(WEATHER)
        await stream.start()
        await stream.invoked()
        await stream.invoked()
        await stream.send("close", agent_pb2.CloseConversation())
        assert await stream.ended() is None
        ended = await stream.completed()
        assert ended.outcome == turn_pb2.TURN_OUTCOME_CANCELLED
        assert stream.kinds().count("cancel_invocation") == 2
        assert stream.kinds().count("tool_call_completed") == 2
        assert len(server.service.conversations) == 0
        await eventually(lambda: server.timers == 0)
