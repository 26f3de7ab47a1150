"""The fields of StartTurn: accepted in their documented range, else refused by name."""

from __future__ import annotations

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from precall.v1 import content_pb2, generation_pb2, turn_pb2
from precall.v1.content_pb2 import ContentPart
from tests.support.scripts import always, says
from tests.support.stream import WEATHER, running_server
from tests.support.wire import said

HELLO = always(says("Hello."))

Generation = generation_pb2.GenerationSettings
Limits = turn_pb2.TurnLimits
Choice = generation_pb2.ToolChoice
StartTurn = turn_pb2.StartTurn

SECTIONS = {
    "text_bytes_max": 1024,
    "turn_steps_max": 4,
    "turn_tokens_max": 1000,
    "turn_duration_max_s": 60.0,
}


def turn(**fields: object) -> turn_pb2.StartTurn:
    """A valid turn with these fields replaced."""
    right = StartTurn(turn_id="t1", content=said("Hi."))
    for name, value in fields.items():
        if isinstance(value, str | int):
            setattr(right, name, value)
        elif isinstance(value, list):
            del getattr(right, name)[:]
            getattr(right, name).extend(value)
        else:
            getattr(right, name).CopyFrom(value)
    return right


PICTURE = ContentPart(image=content_pb2.MediaPart(media_type="image/png", data=b"\x89PNG"))
ANY_ANSWER = generation_pb2.AnswerFormat(json_schema="{}")
ONE_ALLOWED = Generation(tool_choice=Choice(allowed_tool_names=["weather"]))
ONE_CALL = Generation(tool_choice=Choice(max_parallel_calls=1))
LATER_MODE = generation_pb2.ToolChoiceMode.ValueType(99)

BAD_FIELDS = [
    ("turn_id", turn(turn_id="")),
    ("turn_id", turn(turn_id="x" * 129)),
    ("turn_id", turn(turn_id="é" * 65)),
    ("content", turn(content=[])),
    ("content", turn(content=said(""))),
    ("content", turn(content=said(" \n", "\t "))),
    ("content", turn(content=said("\u2003\u00a0"))),
    ("content[1]", turn(content=[*said("Hi."), ContentPart()])),
    *[("generation.presence_penalty", turn(generation=Generation(presence_penalty=value)))
      for value in (-2.1, 2.1, float("nan"))],
    *[("generation.frequency_penalty", turn(generation=Generation(frequency_penalty=value)))
      for value in (-2.1, 2.1, float("inf"))],
    *[("generation.temperature", turn(generation=Generation(temperature=value)))
      for value in (-0.1, 2.1, float("nan"), float("inf"), float("-inf"))],
    *[("generation.top_p", turn(generation=Generation(top_p=value)))
      for value in (0.0, -1.0, 1.01, float("nan"), float("inf"))],
    *[("generation.top_k", turn(generation=Generation(top_k=value)))
      for value in (0, -2, -(2**31))],
    *[("generation.seed", turn(generation=Generation(seed=value))) for value in (-1, -(2**63))],
    *[("generation.max_step_tokens", turn(generation=Generation(max_step_tokens=value)))
      for value in (0, 1001, 2**32 - 1)],
    ("generation.stop[1]", turn(generation=Generation(stop=["a", ""]))),
    ("generation.stop[0]", turn(generation=Generation(stop=["é" * 129]))),
    *[("limits.max_steps", turn(limits=Limits(max_steps=value))) for value in (0, 5, 2**32 - 1)],
    *[("limits.max_turn_tokens", turn(limits=Limits(max_turn_tokens=value)))
      for value in (0, 1001)],
    *[("limits.max_duration", turn(limits=Limits(max_duration=value)))
      for value in (
          Duration(),
          Duration(seconds=-1),
          Duration(seconds=60, nanos=1),
          Duration(seconds=2**62),
          Duration(nanos=-5),
      )],
    ("generation.tool_choice.mode",
     turn(generation=Generation(tool_choice=Choice(mode=LATER_MODE)))),
    *[("generation.tool_choice.tool_name", turn(generation=Generation(tool_choice=choice)))
      for choice in (
          Choice(mode=generation_pb2.TOOL_CHOICE_MODE_NAMED),
          Choice(mode=generation_pb2.TOOL_CHOICE_MODE_AUTO, tool_name="weather"),
          Choice(tool_name="weather"),
      )],
]  # fmt: skip


@pytest.mark.parametrize(("field", "bad"), BAD_FIELDS, ids=[field for field, _ in BAD_FIELDS])
async def test_a_field_out_of_range_is_refused_by_name(field: str, bad: StartTurn) -> None:
    async with running_server(HELLO, conversations=SECTIONS) as server:
        stream = await server.opened(WEATHER)
        error = await stream.refused(await stream.send("start_turn", bad))
        assert error.reason == "FIELD_INVALID"
        assert error.code is grpc.StatusCode.INVALID_ARGUMENT
        assert error.field == f"start_turn.{field}"
        assert (await stream.ask(turn_id="t1")).text == "Hello."
        await stream.close()


TOO_LARGE = [
    ("content", turn(content=said("é" * 512, "e")), "1024"),
    ("content", turn(content=said(*["e"] * 257)), "256"),
    ("generation.stop", turn(generation=Generation(stop=["a"] * 17)), "16"),
]


@pytest.mark.parametrize(("field", "bad", "limit"), TOO_LARGE, ids=lambda value: str(value)[:16])
async def test_too_large_a_value_is_refused_with_the_limit(
    field: str, bad: StartTurn, limit: str
) -> None:
    async with running_server(HELLO, conversations=SECTIONS) as server:
        stream = await server.opened()
        error = await stream.refused(await stream.send("start_turn", bad))
        assert error.reason == "TOO_LARGE"
        assert error.field == f"start_turn.{field}"
        assert error.metadata["limit"] == limit
        assert limit in error.message
        assert (await stream.ask()).text == "Hello."
        await stream.close()


GOOD_FIELDS = [
    turn(turn_id="é" * 64, content=said("é" * 512)),
    turn(generation=Generation(temperature=0, top_p=1, top_k=1, seed=0, max_step_tokens=1000)),
    turn(generation=Generation(temperature=2, top_p=5e-324, top_k=-1, seed=2**63 - 1)),
    turn(generation=Generation(stop=["é" * 128] * 16)),
    turn(generation=Generation(tool_choice=Choice(mode=generation_pb2.TOOL_CHOICE_MODE_NONE))),
    turn(generation=Generation(tool_choice=Choice())),
    turn(limits=Limits(max_steps=4, max_turn_tokens=1000, max_duration=Duration(seconds=60))),
    turn(limits=Limits(max_steps=1, max_turn_tokens=7, max_duration=Duration(nanos=1))),
    turn(while_running=turn_pb2.WHILE_RUNNING_REJECT),
]


@pytest.mark.parametrize("good", GOOD_FIELDS, ids=range(len(GOOD_FIELDS)))
async def test_what_the_contract_allows_is_accepted(good: StartTurn) -> None:
    async with running_server(HELLO, conversations=SECTIONS) as server:
        stream = await server.opened(WEATHER)
        await stream.send("start_turn", good)
        assert (await stream.completed(good.turn_id)).text == "Hello."
        await stream.close()


@pytest.mark.parametrize(
    ("capability", "path", "bad"),
    [
        ("MEDIA", "content[1].image", turn(content=[*said("See:"), PICTURE])),
        ("ANSWER_FORMAT", "answer_format", turn(generation=Generation(answer_format=ANY_ANSWER))),
        (
            "LOG_PROBABILITIES",
            "log_probabilities",
            turn(generation=Generation(log_probabilities=0)),
        ),
        ("TOOL_SELECTION", "allowed_tool_names", turn(generation=ONE_ALLOWED)),
        ("TOOL_SELECTION", "max_parallel_calls", turn(generation=ONE_CALL)),
    ],
)
async def test_a_setting_that_is_not_served_is_refused_by_name(
    capability: str, path: str, bad: StartTurn
) -> None:
    async with running_server(HELLO) as server:
        stream = await server.opened()
        error = await stream.refused(await stream.send("start_turn", bad))
        assert error.reason == "NOT_SERVED"
        assert error.metadata["method"].endswith(path)
        assert error.metadata["capability"] == f"CAPABILITY_{capability}"
        assert (await stream.ask()).text == "Hello."
        await stream.close()


@pytest.mark.parametrize("value", [2, 3, 4])
async def test_input_while_a_turn_runs_is_not_served_yet(
    value: turn_pb2.WhileRunning.ValueType,
) -> None:
    async with running_server(HELLO) as server:
        stream = await server.opened()
        error = await stream.refused(await stream.send("start_turn", turn(while_running=value)))
        assert error.reason == "NOT_SERVED"
        assert "while_running" in error.message
        assert error.metadata["capability"] == "CAPABILITY_INTERJECTION"
        await stream.close()


async def test_a_while_running_mode_of_a_later_contract_is_refused() -> None:
    async with running_server(HELLO) as server:
        stream = await server.opened()
        error = await stream.refused(await stream.send("start_turn", turn(while_running=77)))
        assert error.reason in {"NOT_SERVED", "FIELD_INVALID"}
        await stream.close()
