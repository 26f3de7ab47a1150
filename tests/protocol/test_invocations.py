"""Handlers in the client: the invocations that they get, their answers and their failures."""

from __future__ import annotations

import json

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from precall.v1 import invocation_pb2, tool_pb2, turn_pb2
from tests.support.scripted_template import prompt_text
from tests.support.scripts import Item, Script, calls, in_turn, says
from tests.support.stream import WEATHER, RunningServer, StreamDriver, running_server
from tests.support.tools import CITY_SCHEMA
from tests.support.wire import Failure, failure, seconds

ROME, BARI = '{"city":"Rome"}', '{"city":"Bari"}'
CALL = calls(("weather", ROME))

Result = invocation_pb2.InvocationResult
Progress = invocation_pb2.InvocationProgress


def then_answer(step: list[Item]) -> Script:
    return in_turn(step, says("Done."))


async def asked(server: RunningServer, *tools: tool_pb2.Tool) -> StreamDriver:
    """A stream whose turn has started."""
    stream = await server.opened(*(tools or (WEATHER,)))
    await stream.start()
    return stream


async def done(stream: StreamDriver) -> None:
    """Checks that the turn ends with the model's answer, and closes the stream."""
    ended = await stream.completed()
    assert ended.outcome == turn_pb2.TURN_OUTCOME_ANSWERED
    assert ended.text == "Done."
    await stream.close()


def last_prompt(server: RunningServer) -> str:
    """The prompt of the last step as text."""
    return prompt_text(server.engine.prompts[-1])


async def test_an_invocation_has_everything_that_a_handler_needs() -> None:
    async with running_server(then_answer(CALL)) as server:
        stream = server.stream()
        opened = await stream.open()
        await stream.send("register_tools", tool_pb2.RegisterTools(tools=[WEATHER]))
        [entry] = (await stream.expect("tools_registered")).tools_registered.registrations
        await stream.start()
        started = (await stream.expect("tool_call_started")).tool_call_started
        invoke = await stream.invoked()
        assert invoke.call_id == started.call_id
        assert invoke.conversation_id == opened.conversation_id
        assert (invoke.turn_id, invoke.tool_name) == ("t1", "weather")
        assert invoke.tool_version == entry.version
        assert invoke.arguments_json == ROME
        assert seconds(invoke.timeout) == 30
        assert invoke.prediction_id == ""
        assert invoke.invocation_id
        assert invoke.execution_id
        assert invoke.invocation_id != invoke.execution_id
        await stream.answer(invoke.invocation_id, '"30 C"')
        completed = await stream.call_completed()
        assert completed.outcome == turn_pb2.TOOL_CALL_OUTCOME_RESULT
        assert completed.result_json == '"30 C"'
        assert completed.source == turn_pb2.RESULT_SOURCE_COMMITTED
        await done(stream)
        assert "30 C" in last_prompt(server)


async def test_calls_of_one_step_run_concurrently_and_their_answers_keep_the_call_order() -> None:
    both = calls(("weather", ROME), ("weather", BARI))
    async with running_server(then_answer(both)) as server:
        stream = await asked(server)
        rome, bari = await stream.invoked(), await stream.invoked()
        assert (rome.arguments_json, bari.arguments_json) == (ROME, BARI)
        await stream.answer(bari.invocation_id, '"7 C"')
        assert (await stream.call_completed()).call_id == bari.call_id
        await stream.answer(rome.invocation_id, '"30 C"')
        assert (await stream.call_completed()).call_id == rome.call_id
        await done(stream)
        assert last_prompt(server).index("30 C") < last_prompt(server).index("7 C")


BAD_ARGUMENTS = {
    '{"city":5}': "arguments.city",
    '{"days":1}': '"city" is a required property',
    '{"city":"Rome","days":0}': "arguments.days",
    '{"city":"Rome","planet":1}': "planet",
    "[]": "object",
    "{": "JSON",
    "": "JSON",
    '{"city":"Rome","city":"Bari"}': "twice",
    '{"city":NaN}': "NaN",
    '{"city":"Rome","days":%s}' % ("1" * 5000): "arguments",
    json.dumps({"city": "x" * 2000}): "1024",
    '{"city":"\\ud800"}': "arguments.city: holds half of a surrogate pair",
    '{"city":"Rome","days":"\\ud800"}': "arguments.days: holds half of a surrogate pair",
    '{"city":"Rome","\\ud800":1}': "a name in arguments: holds half of a surrogate pair",
}


@pytest.mark.parametrize("arguments", BAD_ARGUMENTS, ids=lambda text: str(text)[:24])
async def test_invalid_arguments_end_the_call_and_the_model_reads_why(arguments: str) -> None:
    script = then_answer(calls(("weather", arguments)))
    async with running_server(script, tools={"arguments_bytes_max": 1024}) as server:
        stream = await asked(server)
        completed = await stream.call_completed()
        assert completed.outcome == turn_pb2.TOOL_CALL_OUTCOME_ERROR
        error = failure(completed.error)
        assert error.reason in {"ARGUMENTS_INVALID", "TOO_LARGE"}
        assert BAD_ARGUMENTS[arguments] in error.message
        await done(stream)
        assert "invoke" not in stream.kinds()
        assert error.reason.lower() in last_prompt(server)


async def test_a_call_of_an_unknown_tool_ends_and_the_model_reads_why() -> None:
    async with running_server(then_answer(calls(("wether", ROME)))) as server:
        stream = await asked(server)
        completed = await stream.call_completed()
        assert completed.outcome == turn_pb2.TOOL_CALL_OUTCOME_ERROR
        error = failure(completed.error)
        assert error.reason == "TOOL_UNKNOWN"
        assert "'wether'" in error.message
        assert "weather" in error.message
        await done(stream)


async def answered(server: RunningServer, result: Result) -> tuple[StreamDriver, Failure]:
    """Answers the only call of a turn; returns the stream and the error of the call."""
    stream = await asked(server)
    result.invocation_id = (await stream.invoked()).invocation_id
    await stream.send("invocation_result", result)
    completed = await stream.call_completed()
    assert completed.outcome != turn_pb2.TOOL_CALL_OUTCOME_RESULT
    return stream, failure(completed.error)


@pytest.mark.parametrize("kind", ["ValueError", "", "x" * 500])
async def test_the_model_reads_the_error_of_a_handler_unchanged(kind: str) -> None:
    async with running_server(then_answer(CALL)) as server:
        failed = invocation_pb2.InvocationError(type=kind, message="no such city: Rome")
        stream, error = await answered(server, Result(error=failed))
        assert error.reason == "TOOL_FAILED"
        assert error.message == "no such city: Rome"
        await done(stream)
        assert "no such city: Rome" in last_prompt(server)
        assert "frame_rejected" not in stream.kinds()


async def test_a_very_long_or_empty_error_of_a_handler_ends_its_call_too() -> None:
    async with running_server(in_turn(CALL, says("Done."), CALL, says("Done."))) as server:
        failed = invocation_pb2.InvocationError(message="é" * 100_000)
        stream, error = await answered(server, Result(error=failed))
        assert len(error.message) <= 2000
        await done(stream)
        failed = invocation_pb2.InvocationError()
        stream, error = await answered(server, Result(error=failed))
        assert "weather" in error.message
        await done(stream)


async def test_a_handler_may_report_that_it_was_cancelled() -> None:
    async with running_server(then_answer(CALL)) as server:
        cancelled = Result(cancelled=invocation_pb2.InvocationCancelled())
        stream, error = await answered(server, cancelled)
        assert error.reason == "CANCELLED"
        await done(stream)


UNUSABLE = {
    "not JSON": ("30 C", "RESULT_INVALID", "JSON"),
    "nothing": ("", "RESULT_INVALID", "JSON"),
    "half": ('{"a":', "RESULT_INVALID", "JSON"),
    "not a number": ("NaN", "RESULT_INVALID", "NaN"),
    "a name twice": ('{"a":1,"a":1}', "RESULT_INVALID", "twice"),
    "too many digits": ("1" * 5000, "RESULT_INVALID", "digits"),
    "too deep": ("[" * 9000, "RESULT_INVALID", "deep"),
    "too large": (json.dumps("é" * 10_000), "TOO_LARGE", "10000"),
}


@pytest.mark.parametrize("name", UNUSABLE)
async def test_an_unusable_result_is_refused_and_ends_the_call(name: str) -> None:
    text, reason, word = UNUSABLE[name]
    async with running_server(then_answer(CALL), tools={"result_bytes_max": 10_000}) as server:
        stream = await asked(server)
        number = await stream.answer((await stream.invoked()).invocation_id, text)
        refused = await stream.refused(number)
        assert refused.reason == reason
        assert refused.field == "invocation_result.result_json"
        assert word in refused.message
        completed = await stream.call_completed()
        assert completed.outcome == turn_pb2.TOOL_CALL_OUTCOME_ERROR
        assert failure(completed.error).reason == reason
        await done(stream)
        assert reason.lower() in last_prompt(server)


async def test_a_result_that_breaks_its_output_schema_is_refused() -> None:
    strict = tool_pb2.Tool(
        name="weather", input_schema_json=CITY_SCHEMA, output_schema_json='{"type":"integer"}'
    )
    async with running_server(then_answer(CALL)) as server:
        stream = await asked(server, strict)
        number = await stream.answer((await stream.invoked()).invocation_id, '"30 C"')
        assert (await stream.refused(number)).reason == "RESULT_INVALID"
        await done(stream)


@pytest.mark.parametrize("text", ['["\\ud800"]', '"\\ud800"', '{"\\udfff":[]}'])
async def test_half_of_a_surrogate_pair_that_breaks_the_output_schema_ends_the_call(
    text: str,
) -> None:
    strict = tool_pb2.Tool(
        name="weather", input_schema_json=CITY_SCHEMA, output_schema_json='{"type":"integer"}'
    )
    async with running_server(then_answer(CALL)) as server:
        stream = await asked(server, strict)
        number = await stream.answer((await stream.invoked()).invocation_id, text)
        assert (await stream.refused(number)).reason == "RESULT_INVALID"
        assert failure((await stream.call_completed()).error).reason == "RESULT_INVALID"
        await done(stream)


@pytest.mark.parametrize(
    "text", ["null", "true", "0", '""', "[]", "{}", '"\\ud800"', "1e400", " 5 ", '"é\\u0000"']
)
async def test_any_json_is_a_result(text: str) -> None:
    async with running_server(then_answer(CALL)) as server:
        stream = await asked(server)
        await stream.answer((await stream.invoked()).invocation_id, text)
        completed = await stream.call_completed()
        if completed.outcome == turn_pb2.TOOL_CALL_OUTCOME_RESULT:
            assert completed.result_json == text
        else:
            assert failure(completed.error).reason == "RESULT_INVALID"
        await done(stream)


async def test_a_result_in_a_frame_over_the_limit_ends_its_call() -> None:
    async with running_server(
        then_answer(CALL), server={"frame_bytes_max": 8192}, tools={"result_bytes_max": 4096}
    ) as server:
        stream = await asked(server)
        invoke = await stream.invoked()
        number = await stream.answer(invoke.invocation_id, json.dumps("x" * 10_000))
        assert (await stream.refused(number)).reason == "TOO_LARGE"
        assert failure((await stream.call_completed()).error).reason == "TOO_LARGE"
        await done(stream)


async def test_a_result_without_an_outcome_is_refused_and_the_run_continues() -> None:
    async with running_server(then_answer(CALL)) as server:
        stream = await asked(server)
        invoke = await stream.invoked()
        number = await stream.send("invocation_result", Result(invocation_id=invoke.invocation_id))
        error = await stream.refused(number)
        assert error.reason == "FIELD_INVALID"
        assert error.field == "invocation_result.outcome"
        await stream.answer(invoke.invocation_id)
        assert (await stream.call_completed()).outcome == turn_pb2.TOOL_CALL_OUTCOME_RESULT
        await done(stream)


async def unknown(stream: StreamDriver, frame: int, kind: str = "invocation_result") -> None:
    """Checks that the frame was refused because its invocation does not wait for an answer."""
    error = await stream.refused(frame)
    assert error.reason == "INVOCATION_UNKNOWN"
    assert error.code is grpc.StatusCode.NOT_FOUND
    assert error.field == f"{kind}.invocation_id"


@pytest.mark.parametrize("invocation_id", ["", "nonsense", "é" * 5000, "\n\x00"])
async def test_a_result_of_an_unknown_invocation_is_refused(invocation_id: str) -> None:
    async with running_server(then_answer(CALL)) as server:
        stream = await asked(server)
        invoke = await stream.invoked()
        await unknown(stream, await stream.answer(invocation_id))
        progress = Progress(invocation_id=invocation_id)
        number = await stream.send("invocation_progress", progress)
        await unknown(stream, number, "invocation_progress")
        await stream.answer(invoke.invocation_id)
        await done(stream)


async def test_the_second_of_two_equal_results_is_refused() -> None:
    async with running_server(then_answer(CALL)) as server:
        stream = await asked(server)
        invoke = await stream.invoked()
        await stream.answer(invoke.invocation_id, "1")
        await unknown(stream, await stream.answer(invoke.invocation_id, "2"))
        await done(stream)
        results = [e.tool_call_completed.result_json for e in stream.events]
        assert [result for result in results if result] == ["1"]


async def test_a_run_of_another_stream_cannot_be_answered() -> None:
    async with running_server(then_answer(CALL)) as server:
        stream, thief = await asked(server), await server.opened(WEATHER)
        invoke = await stream.invoked()
        await unknown(thief, await thief.answer(invoke.invocation_id, '"stolen"'))
        progress = Progress(invocation_id=invoke.invocation_id, message="stolen")
        number = await thief.send("invocation_progress", progress)
        await unknown(thief, number, "invocation_progress")
        await stream.answer(invoke.invocation_id, '"mine"')
        await done(stream)
        await thief.close()
        assert "stolen" not in last_prompt(server)


async def test_a_hanging_handler_is_cancelled_and_its_late_answer_is_ignored() -> None:
    slow = tool_pb2.Tool(name="weather", input_schema_json=CITY_SCHEMA, timeout=Duration(seconds=2))
    async with running_server(then_answer(CALL)) as server:
        stream = await asked(server, slow)
        invoke = await stream.invoked()
        assert seconds(invoke.timeout) == 2
        progress = Progress(invocation_id=invoke.invocation_id, message="still there")
        server.clock.advance(1.5)
        await stream.send("invocation_progress", progress)
        await stream.expect("tool_call_progress")
        server.clock.advance(0.6)  # progress does not extend the timeout
        cancel = (await stream.expect("cancel_invocation")).cancel_invocation
        assert cancel.invocation_id == invoke.invocation_id
        assert cancel.reason == invocation_pb2.INVOCATION_CANCEL_REASON_TIMEOUT
        completed = await stream.call_completed()
        assert completed.outcome == turn_pb2.TOOL_CALL_OUTCOME_TIMEOUT
        error = failure(completed.error)
        assert error.reason == "TOOL_TIMEOUT"
        assert "2 s" in error.message
        assert seconds(completed.wait_time) == pytest.approx(2.1)
        assert (await stream.completed()).text == "Done."
        await stream.answer(invoke.invocation_id, '"late"')
        await unknown(stream, await stream.answer(invoke.invocation_id, '"later"'))
        assert stream.kinds().count("frame_rejected") == 1
        assert stream.kinds().count("tool_call_completed") == 1
        await stream.close()


async def test_calls_beyond_the_slots_of_a_tool_wait_for_a_slot() -> None:
    single = tool_pb2.Tool(name="weather", input_schema_json=CITY_SCHEMA, max_concurrency=1)
    both = calls(("weather", ROME), ("weather", BARI))
    async with running_server(then_answer(both)) as server:
        stream = await asked(server, single)
        first = await stream.invoked()
        await stream.answer(first.invocation_id)
        assert (await stream.call_completed()).call_id == first.call_id
        await stream.answer((await stream.invoked()).invocation_id)
        await done(stream)


async def test_a_run_of_a_withdrawn_tool_finishes_and_the_tool_is_not_called_again() -> None:
    async with running_server(in_turn(CALL, CALL, says("Done."))) as server:
        stream = await asked(server)
        invoke = await stream.invoked()
        await stream.send("withdraw_tools", tool_pb2.WithdrawTools(names=["weather"]))
        await stream.expect("tools_withdrawn")
        await stream.answer(invoke.invocation_id, '"30 C"')
        assert (await stream.call_completed()).result_json == '"30 C"'
        completed = await stream.call_completed()
        assert completed.outcome == turn_pb2.TOOL_CALL_OUTCOME_UNAVAILABLE
        assert failure(completed.error).reason == "TOOL_UNAVAILABLE"
        await done(stream)


async def test_an_updated_schema_applies_to_later_calls() -> None:
    async with running_server(in_turn(CALL, CALL, says("Done."))) as server:
        stream = await asked(server)
        invoke = await stream.invoked()
        stricter = tool_pb2.Tool(
            name="weather", input_schema_json='{"type":"object","required":["planet"]}'
        )
        await stream.send("register_tools", tool_pb2.RegisterTools(tools=[stricter]))
        await stream.expect("tools_registered")
        await stream.answer(invoke.invocation_id)
        assert (await stream.call_completed()).outcome == turn_pb2.TOOL_CALL_OUTCOME_RESULT
        completed = await stream.call_completed()
        error = failure(completed.error)
        assert error.reason == "ARGUMENTS_INVALID"
        assert "planet" in error.message
        await done(stream)
