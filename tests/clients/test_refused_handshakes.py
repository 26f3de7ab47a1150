"""Handshakes that the server and the fake server refuse: the same, by reason and field."""

from __future__ import annotations

import json
from typing import Any

import pytest

from precall.v1 import (
    agent_pb2,
    prediction_pb2,
    tool_pb2,
)
from tests.clients.refusing import (
    ARGUMENTS_MAX,
    ASSISTANT,
    FIELD,
    KINDS,
    LARGE,
    MEDIA,
    MESSAGES_MAX,
    SERVED,
    TEXT_MAX,
    TOOL,
    TOOLS_MAX,
    UNSET,
    USER,
    Message,
    Open,
    Request,
    Tool,
    named,
    parts,
    sent,
    stream_to,
    what,
)
from tests.support.stream import MODEL


def user() -> Message:
    return Message(role=USER, content=parts())


def called(*ids: str, arguments: str = "{}") -> Message:
    return Message(
        role=ASSISTANT,
        tool_calls=[
            agent_pb2.ToolCall(call_id=one, tool_name="f", arguments_json=arguments) for one in ids
        ],
    )


def answered(call_id: str) -> Message:
    return Message(role=TOOL, content=parts(), tool_call_id=call_id)


def variables(**values: Any) -> Open:
    return Open(template_variables_json=json.dumps(values))


SHARED = tool_pb2.SharedToolSelection(all=True)
VARIABLES = "open.template_variables_json"
BEFORE = "open.history[0]"

OPENINGS: list[tuple[str, str, Open]] = [
    (FIELD, "open.model", Open(model="another")),
    (SERVED, "", Open(shared_tools=SHARED)),
    (LARGE, "open.system_prompt", Open(system_prompt="x" * (TEXT_MAX + 1))),
    (LARGE, "open.history", Open(history=[user()] * (MESSAGES_MAX + 1))),
    (LARGE, f"{BEFORE}.content", Open(history=[Message(role=USER, content=parts(257))])),
    (LARGE, f"{BEFORE}.content", Open(history=[Message(role=USER, content=parts(2, "x" * 2000))])),
    (FIELD, f"{BEFORE}.content[0]", Open(history=[Message(role=USER, content=[UNSET])])),
    (SERVED, "", Open(history=[Message(role=USER, content=[MEDIA])])),
    (
        LARGE,
        f"{BEFORE}.tool_calls[0].arguments_json",
        Open(history=[called("a", arguments=json.dumps({"a": "x" * ARGUMENTS_MAX}))]),
    ),
    (FIELD, f"{BEFORE}.role", Open(history=[Message(content=parts())])),
    (FIELD, f"{BEFORE}.tool_call_id", Open(history=[answered("a")])),
    (FIELD, f"{BEFORE}.tool_call_id", Open(history=[answered("")])),
    (FIELD, "open.history[2].tool_call_id", Open(history=[user(), called("a"), answered("b")])),
    (
        FIELD,
        "open.history[3].tool_call_id",
        Open(history=[user(), called("a"), answered("a"), answered("a")]),
    ),
    (FIELD, "open.history[2]", Open(history=[user(), called("a"), user()])),
    (FIELD, "open.history[2]", Open(history=[user(), called("a"), called("b")])),
    (FIELD, "open.history", Open(history=[user(), called("a", "b"), answered("b")])),
    (FIELD, f"{BEFORE}.tool_calls[0].call_id", Open(history=[called("")])),
    (FIELD, f"{BEFORE}.tool_calls[1].call_id", Open(history=[called("a", "a")])),
    (LARGE, f"{BEFORE}.tool_calls", Open(history=[called(*map(str, range(129)))])),
    *(
        (
            FIELD,
            f"{BEFORE}.tool_calls[0].arguments_json",
            Open(history=[called("a", arguments=text)]),
        )
        for text in ("", "[]", "{", '{"a": NaN}', '{"a": 1, "a": 2}', r'{"a": "\ud800"}')
    ),
    (FIELD, VARIABLES, Open(template_variables_json="[]")),
    (FIELD, VARIABLES, variables(tools=[])),
    (FIELD, VARIABLES, variables(chat_template="x")),
    (FIELD, VARIABLES, variables(documents={})),
    (FIELD, VARIABLES, variables(documents=["x"])),
    (LARGE, VARIABLES, variables(long="x" * (16 << 10))),
    (LARGE, "open.tools", Open(tools=[Tool(name="a")] * (4 * TOOLS_MAX + 1))),
    (
        FIELD,
        "open.speculation.mode",
        Open(speculation=prediction_pb2.SpeculationSettings(mode=77)),  # pyright: ignore[reportArgumentType]
    ),
    (
        FIELD,
        "open.speculation.predictors",
        Open(speculation=prediction_pb2.SpeculationSettings(predictors=[0])),  # pyright: ignore[reportArgumentType]
    ),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("reason", "field", "frame"), OPENINGS, ids=named(OPENINGS))
async def test_handshakes(kind: str, reason: str, field: str, frame: Open) -> None:
    async with stream_to(kind) as stream:
        await stream.send("open", frame)
        assert what(await stream.ended()) == (reason, field)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "history",
    [
        [user(), called("a", "b"), answered("b"), answered("a"), user()],
        [called("a"), answered("a"), called("a"), answered("a")],
        [user(), user()],
        [],
    ],
)
async def test_histories_that_are_complete_are_taken(kind: str, history: list[Message]) -> None:
    async with stream_to(kind) as stream:
        await stream.open(Open(history=history, model=MODEL))
        await stream.close()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tenants", [("a", "b"), ("two words",), ("x" * 65,), ("",)])
async def test_tenants(kind: str, tenants: tuple[str, ...]) -> None:
    async with stream_to(kind, tenants=tenants) as stream:  # refused before its first frame
        assert what(await stream.ended()) == (FIELD, "metadata.precall-tenant")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("reason", "field", "frame"),
    [
        ("HANDSHAKE_REQUIRED", "frame", sent(sequence=1, acknowledge={})),
        ("HANDSHAKE_REQUIRED", "frame", sent(sequence=1)),
        ("HANDSHAKE_REQUIRED", "frame", sent(sequence=1, start_turn={})),
        (SERVED, "", sent(sequence=1, resume={})),
        (FIELD, "sequence", sent(sequence=2, open={})),
    ],
)
async def test_first_frames(kind: str, reason: str, field: str, frame: Request) -> None:
    async with stream_to(kind) as stream:
        await stream.send_raw(frame)
        assert what(await stream.ended()) == (reason, field)
