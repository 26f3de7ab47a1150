"""Turns and frames that the server and the fake server refuse: the same, by reason and field."""

from __future__ import annotations

import json
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration

from precall.v1 import (
    common_pb2,
    generation_pb2,
    invocation_pb2,
    tool_pb2,
    turn_pb2,
)
from tests.clients.refusing import (
    ARGUMENTS_MAX,
    FIELD,
    KINDS,
    LARGE,
    MEDIA,
    MESSAGES_MAX,
    RESULT_MAX,
    SERVED,
    TEXT_MAX,
    UNSET,
    USER,
    Choice,
    Generation,
    Message,
    Open,
    Request,
    Step,
    Tool,
    Turn,
    named,
    parts,
    sent,
    stream_to,
    what,
)
from tests.support.wire import failure, said


def turn(**fields: Any) -> Turn:
    values: dict[str, Any] = {"turn_id": "t", "content": said("?"), **fields}
    return Turn(**values)


def generation(**fields: Any) -> Turn:
    return turn(generation=Generation(**fields))


def choice(mode: int = 0, **fields: Any) -> Turn:
    return generation(tool_choice=Choice(mode=mode, **fields))  # pyright: ignore[reportArgumentType]


def limited(**fields: Any) -> Turn:
    return turn(limits=turn_pb2.TurnLimits(**fields))


NAMED = generation_pb2.TOOL_CHOICE_MODE_NAMED
AUTO = generation_pb2.TOOL_CHOICE_MODE_AUTO
REQUIRED = generation_pb2.TOOL_CHOICE_MODE_REQUIRED
INFINITE, NAN = float("inf"), float("nan")
CHOICE = "start_turn.generation.tool_choice"
TURNS: list[tuple[str, str, Turn]] = [
    (FIELD, "start_turn.turn_id", turn(turn_id="")),
    (FIELD, "start_turn.turn_id", turn(turn_id="é" * 65)),
    (FIELD, "start_turn.content", turn(content=[])),
    (FIELD, "start_turn.content", turn(content=said(" ", "\n"))),
    (FIELD, "start_turn.content[1]", turn(content=[*said("?"), UNSET])),
    (SERVED, "", turn(content=[MEDIA])),
    (LARGE, "start_turn.content", turn(content=said("x" * (TEXT_MAX + 1)))),
    (LARGE, "start_turn.content", turn(content=parts(257))),
    (SERVED, "", turn(while_running=turn_pb2.WHILE_RUNNING_INTERJECT)),
    *(
        (FIELD, f"start_turn.generation.{name}", generation(**{name: value}))
        for name, values in {
            "temperature": (-0.1, 2.1, INFINITE, NAN),
            "top_p": (0.0, 1.1, NAN),
            "top_k": (0, -2),
            "seed": (-1,),
            "presence_penalty": (-2.1, 2.1, NAN),
            "frequency_penalty": (-2.1, 2.1),
            "max_step_tokens": (0, 32_769),
        }.items()
        for value in values
    ),
    (LARGE, "start_turn.generation.stop", generation(stop=["x"] * 17)),
    (FIELD, "start_turn.generation.stop[1]", generation(stop=["x", ""])),
    (FIELD, "start_turn.generation.stop[0]", generation(stop=["é" * 129])),
    (SERVED, "", generation(answer_format=generation_pb2.AnswerFormat())),
    (SERVED, "", generation(log_probabilities=1)),
    (SERVED, "", choice(allowed_tool_names=["f"])),
    (SERVED, "", choice(max_parallel_calls=1)),
    (FIELD, f"{CHOICE}.mode", choice(77)),
    (FIELD, f"{CHOICE}.tool_name", choice(NAMED)),
    (FIELD, f"{CHOICE}.tool_name", choice(AUTO, tool_name="f")),
    (FIELD, f"{CHOICE}.tool_name", choice(NAMED, tool_name="a b")),
    ("TOOL_CHOICE_INVALID", f"{CHOICE}.tool_name", choice(NAMED, tool_name="g")),
    ("TOOL_CHOICE_INVALID", f"{CHOICE}.mode", choice(REQUIRED)),
    (FIELD, "start_turn.limits.max_steps", limited(max_steps=0)),
    (FIELD, "start_turn.limits.max_steps", limited(max_steps=33)),
    (FIELD, "start_turn.limits.max_turn_tokens", limited(max_turn_tokens=0)),
    (FIELD, "start_turn.limits.max_turn_tokens", limited(max_turn_tokens=32_769)),
    (FIELD, "start_turn.limits.max_duration", limited(max_duration=Duration())),
    (FIELD, "start_turn.limits.max_duration", limited(max_duration=Duration(seconds=1801))),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("reason", "field", "frame"), TURNS, ids=named(TURNS))
async def test_turns(kind: str, reason: str, field: str, frame: Turn) -> None:
    async with stream_to(kind) as stream:
        await stream.open(Open())
        number = await stream.send("start_turn", frame)
        assert what(await stream.refused(number)) == (reason, field)
        await stream.close()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("step", "chosen"),
    [
        ("No.", Choice(mode=REQUIRED)),
        ("No.", Choice(mode=NAMED, tool_name="g")),
        ({}, Choice(mode=NAMED, tool_name="g")),
    ],
)
async def test_a_required_call_that_is_not_made(kind: str, step: Step, chosen: Choice) -> None:
    async with stream_to(kind, steps=[step]) as stream:
        await stream.open(Open(tools=[Tool(name="f"), Tool(name="g")]))
        await stream.send("start_turn", generation(tool_choice=chosen))
        ended = await stream.completed("t")
        assert ended.outcome == turn_pb2.TURN_OUTCOME_NO_CALL
        assert what(failure(ended.error)) == ("CALL_MISSING", "")
        calls = [frame for frame in stream.events if frame.HasField("tool_call_completed")]
        assert [call.tool_call_completed.outcome for call in calls] == [
            turn_pb2.TOOL_CALL_OUTCOME_CANCELLED
        ] * (not isinstance(step, str))
        await stream.close()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "chosen", [Choice(mode=REQUIRED), Choice(mode=NAMED, tool_name="f"), Choice(mode=AUTO)]
)
async def test_a_required_call_that_is_made(kind: str, chosen: Choice) -> None:
    async with stream_to(kind, steps=[{}, "Yes."]) as stream:
        await stream.open(Open(tools=[Tool(name="f"), Tool(name="g")]))
        await stream.send("start_turn", generation(tool_choice=chosen))
        invocation_id = (await stream.invoked()).invocation_id
        result = invocation_pb2.InvocationResult(invocation_id=invocation_id, result_json="1")
        await stream.send("invocation_result", result)
        assert (await stream.completed("t")).outcome == turn_pb2.TURN_OUTCOME_ANSWERED
        await stream.close()


@pytest.mark.parametrize("kind", KINDS)
async def test_the_number_of_steps(kind: str) -> None:
    async with stream_to(kind, steps=[{}, {}]) as stream:
        await stream.open(Open(tools=[Tool(name="f")]))
        await stream.send("start_turn", limited(max_steps=1))
        ended = await stream.completed("t")
        assert ended.outcome == turn_pb2.TURN_OUTCOME_LIMIT
        assert what(failure(ended.error)) == ("LIMIT_REACHED", "start_turn.limits.max_steps")
        assert ended.report.steps == 1
        await stream.close()


@pytest.mark.parametrize("kind", KINDS)
async def test_the_number_of_messages(kind: str) -> None:
    async with stream_to(kind) as stream:
        await stream.open(Open(history=[Message(role=USER, content=parts())] * (MESSAGES_MAX - 1)))
        await stream.start(turn_id="t1")
        await stream.expect("text_delta")
        await stream.send("cancel_turn", turn_pb2.CancelTurn())
        assert (await stream.completed("t1")).outcome == turn_pb2.TURN_OUTCOME_CANCELLED
        number = await stream.start(turn_id="t2")
        assert what(await stream.refused(number)) == ("LIMIT_REACHED", "start_turn")
        await stream.close()


FRAMES: list[tuple[str, str, Request]] = [
    ("HANDSHAKE_REPEATED", "", sent(open=Open())),
    ("HANDSHAKE_REPEATED", "", sent(resume={})),
    ("FRAME_UNKNOWN", "frame", Request()),
    (SERVED, "", sent(cancel_tool_call={})),
    (SERVED, "", sent(approval_decision={})),
    ("TURN_RUNNING", "start_turn", sent(start_turn=turn(turn_id="u"))),
    ("TURN_ID_REUSED", "start_turn.turn_id", sent(start_turn=turn(content=said("!")))),
    ("TURN_UNKNOWN", "cancel_turn.turn_id", sent(cancel_turn={"turn_id": "u"})),
    (FIELD, "invocation_result.outcome", sent(invocation_result={"invocation_id": "i"})),
    (
        "INVOCATION_UNKNOWN",
        "invocation_result.invocation_id",
        sent(invocation_result={"invocation_id": "i", "result_json": "1"}),
    ),
    (
        "INVOCATION_UNKNOWN",
        "invocation_progress.invocation_id",
        sent(invocation_progress={"invocation_id": "i"}),
    ),
    *(
        (
            FIELD,
            "invocation_progress.fraction",
            sent(invocation_progress={"invocation_id": "i", "fraction": fraction}),
        )
        for fraction in (-0.1, 1.1, NAN)
    ),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("reason", "field", "frame"), FRAMES, ids=named(FRAMES))
async def test_frames_while_a_turn_runs(kind: str, reason: str, field: str, frame: Request) -> None:
    async with stream_to(kind) as stream:
        await stream.open(Open())
        await stream.send("start_turn", turn())
        await stream.expect("text_delta")
        third = Request()
        third.CopyFrom(frame)
        third.sequence = 3
        await stream.send_raw(third)
        assert what(await stream.refused(3)) == (reason, field)
        await stream.send("cancel_turn", turn_pb2.CancelTurn(turn_id="t"))
        assert (await stream.completed("t")).outcome == turn_pb2.TURN_OUTCOME_CANCELLED
        await stream.send("cancel_turn", turn_pb2.CancelTurn(turn_id="t"))  # it has ended
        number = await stream.send("cancel_turn", turn_pb2.CancelTurn())
        assert what(await stream.refused(number)) == ("TURN_UNKNOWN", "cancel_turn.turn_id")
        await stream.close()


@pytest.mark.parametrize("kind", KINDS)
async def test_numbers_and_sizes_of_frames(kind: str) -> None:
    async with stream_to(kind) as stream:
        await stream.open(Open())
        large = tool_pb2.RegisterTools(tools=[Tool(name="f", description="x" * (5 << 20))])
        number = await stream.send("register_tools", large)
        assert what(await stream.refused(number)) == (LARGE, "")
        await stream.send("acknowledge", common_pb2.Acknowledge(), sequence=7)
        assert what(await stream.refused(7)) == (FIELD, "sequence")
        await stream.send("cancel_turn", turn_pb2.CancelTurn(), sequence=8)
        assert what(await stream.refused(8)) == ("TURN_UNKNOWN", "cancel_turn.turn_id")
        await stream.close()


RESULT = "invocation_result.result_json"
RESULTS: list[tuple[str, str, dict[str, Any]]] = [
    *(
        ("RESULT_INVALID", RESULT, {"result_json": text})
        for text in ("", "{", "NaN", "[Infinity]", '{"a": 1, "a": 1}', "x")
    ),
    (LARGE, RESULT, {"result_json": json.dumps("x" * RESULT_MAX)}),
    (LARGE, RESULT, {"result_json": "1", "content": parts(1, "x" * RESULT_MAX)}),
    (FIELD, "invocation_result.content[0]", {"result_json": "1", "content": [UNSET]}),
    (SERVED, "", {"result_json": "1", "content": [MEDIA]}),
]


BAD_ARGUMENTS = "ARGUMENTS_INVALID"
CITY = {
    "type": "object",
    "properties": {"city": {"type": "string", "pattern": "^[A-Z]"}, "days": {"$ref": "#/$defs/d"}},
    "required": ["city"],
    "additionalProperties": False,
    "$defs": {"d": {"type": ["integer", "null"], "maximum": 7}},
}
ARGUMENTS: list[tuple[str, str, dict[str, Any]]] = [
    (BAD_ARGUMENTS, "arguments.city", {"city": 5}),
    (BAD_ARGUMENTS, "arguments.city", {"city": "oslo"}),
    (BAD_ARGUMENTS, "arguments.days", {"city": "Oslo", "days": 8}),
    (BAD_ARGUMENTS, "arguments: ", {}),
    (BAD_ARGUMENTS, "arguments: ", {"city": "Oslo", "town": 1}),
    (BAD_ARGUMENTS, "surrogate", {"city": "O\ud800"}),
    (LARGE, "bytes", {"city": "O" * ARGUMENTS_MAX}),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("reason", "said", "arguments"), ARGUMENTS, ids=named(ARGUMENTS))
async def test_arguments(kind: str, reason: str, said: str, arguments: dict[str, Any]) -> None:
    """The model is told, and goes on; the handler does not run."""
    city = Tool(name="f", input_schema_json=json.dumps(CITY))
    async with stream_to(kind, steps=[arguments, {"city": "Oslo", "days": 7}, "Yes."]) as stream:
        await stream.open(Open(tools=[city]))
        await stream.send("start_turn", turn())
        refused = await stream.call_completed()
        assert refused.outcome == turn_pb2.TOOL_CALL_OUTCOME_ERROR
        error = failure(refused.error)
        assert what(error) == (reason, "")
        assert said in error.message
        await stream.answer((await stream.invoked()).invocation_id)
        assert (await stream.call_completed()).outcome == turn_pb2.TOOL_CALL_OUTCOME_RESULT
        assert (await stream.completed("t")).outcome == turn_pb2.TURN_OUTCOME_ANSWERED
        assert stream.kinds().count("invoke") == 1
        await stream.close()


@pytest.mark.parametrize("kind", KINDS)
async def test_arguments_of_a_tool_without_a_schema(kind: str) -> None:
    async with stream_to(kind, steps=[{"city": "Oslo"}, "Yes."]) as stream:
        await stream.open(Open(tools=[Tool(name="f")]))
        await stream.send("start_turn", turn())
        error = failure((await stream.call_completed()).error)
        assert what(error) == (BAD_ARGUMENTS, "")
        assert (await stream.completed("t")).outcome == turn_pb2.TURN_OUTCOME_ANSWERED
        await stream.close()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "result", ["1", '{"city": 5}', '{"city": "Oslo", "town": 1}', "{}", "null"]
)
async def test_results_that_break_the_output_schema(kind: str, result: str) -> None:
    async with stream_to(kind, steps=[{}, {}]) as stream:
        await stream.open(Open(tools=[Tool(name="f", output_schema_json=json.dumps(CITY))]))
        await stream.send("start_turn", turn())
        number = await stream.answer((await stream.invoked()).invocation_id, result)
        assert what(await stream.refused(number)) == ("RESULT_INVALID", RESULT)
        ended = await stream.call_completed()
        assert ended.outcome == turn_pb2.TOOL_CALL_OUTCOME_ERROR
        error = failure(ended.error)
        assert what(error) == ("RESULT_INVALID", RESULT)
        assert "the result of tool 'f' breaks its output schema: result" in error.message
        await stream.answer((await stream.invoked()).invocation_id, '{"city": "Oslo"}')
        assert (await stream.call_completed()).outcome == turn_pb2.TOOL_CALL_OUTCOME_RESULT
        await stream.expect("text_delta")
        await stream.close()


@pytest.mark.parametrize("kind", KINDS)
async def test_a_result_with_half_a_pair_is_judged_as_the_model_sees_it(kind: str) -> None:
    output = {"type": "string", "maxLength": 1, "pattern": "[?]"}
    async with stream_to(kind, steps=[{}]) as stream:
        await stream.open(Open(tools=[Tool(name="f", output_schema_json=json.dumps(output))]))
        await stream.send("start_turn", turn())
        await stream.answer((await stream.invoked()).invocation_id, r'"\ud800"')
        assert (await stream.call_completed()).outcome == turn_pb2.TOOL_CALL_OUTCOME_RESULT
        await stream.expect("text_delta")
        await stream.close()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("reason", "field", "fields"), RESULTS, ids=named(RESULTS))
async def test_results(kind: str, reason: str, field: str, fields: dict[str, Any]) -> None:
    async with stream_to(kind, steps=[{}]) as stream:
        await stream.open(Open(tools=[Tool(name="f")]))
        await stream.send("start_turn", turn())
        invocation_id = (await stream.invoked()).invocation_id
        result = invocation_pb2.InvocationResult(invocation_id=invocation_id, **fields)
        number = await stream.send("invocation_result", result)
        assert what(await stream.refused(number)) == (reason, field)
        ended = await stream.call_completed()
        assert ended.outcome == turn_pb2.TOOL_CALL_OUTCOME_ERROR
        assert what(failure(ended.error)) == (reason, field)
        await stream.expect("text_delta")
        await stream.close()
