"""What the tests of refusals share: the two servers with their limits, and how a refusal is read.

The fake server refuses what the server refuses: every case is tried on both. What depends on the
model is left to the server: the tokens of a prompt, and what chat templates and grammars refuse.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import pydantic

from precall import ServerLimits, TurnLimits
from precall.testing import Call, Entry, FakeServer, Hang, Say
from precall.v1 import (
    agent_pb2,
    content_pb2,
    generation_pb2,
    tool_pb2,
    turn_pb2,
)
from tests.support.scripts import calls, in_turn, never, says
from tests.support.stream import MODEL, Section, StreamDriver, connected, running_server
from tests.support.wire import Failure

TOOLS_MAX, SCHEMA_MAX, DESCRIPTION_MAX, TEXT_MAX, MESSAGES_MAX = 3, 1024, 1024, 2048, 6
ARGUMENTS_MAX = RESULT_MAX = 1024
KINDS = ("fake", "service")

Step: TypeAlias = str | Mapping[str, pydantic.JsonValue]

Request = agent_pb2.ConverseRequest
Message = agent_pb2.Message
Open = agent_pb2.OpenConversation
Turn = turn_pb2.StartTurn
Tool = tool_pb2.Tool
Effects = tool_pb2.ToolEffects
Generation = generation_pb2.GenerationSettings
Choice = generation_pb2.ToolChoice
USER, ASSISTANT, TOOL = (
    agent_pb2.MESSAGE_ROLE_USER,
    agent_pb2.MESSAGE_ROLE_ASSISTANT,
    agent_pb2.MESSAGE_ROLE_TOOL,
)


@asynccontextmanager
async def stream_to(
    kind: str, *, tenants: tuple[str, ...] = (), steps: Sequence[Step] = ()
) -> AsyncGenerator[StreamDriver]:
    """Yields a stream to a server with the limits above, whose turns hang after "Er".

    The first turn begins with these steps: calls of the tool f with the given arguments, or an
    answer, which ends it.
    """
    metadata = tuple(("precall-tenant", tenant) for tenant in tenants)
    if kind == "service":
        tools: Section = {
            "tools_max": TOOLS_MAX,
            "schema_bytes_max": SCHEMA_MAX,
            "description_bytes_max": DESCRIPTION_MAX,
            "arguments_bytes_max": ARGUMENTS_MAX,
            "result_bytes_max": RESULT_MAX,
            "timeout_max_s": 60.0,
        }
        conversations: Section = {"messages_max": MESSAGES_MAX, "text_bytes_max": TEXT_MAX}
        script = in_turn(
            *(
                says(step) if isinstance(step, str) else calls(("f", json.dumps(step)))
                for step in steps
            ),
            *([*says("Er"), never()] for _ in range(2)),
        )
        async with running_server(script, tools=tools, conversations=conversations) as server:
            yield server.stream(*metadata)
        return
    limits = ServerLimits(
        frame_bytes_max=4 << 20,
        tools_max=TOOLS_MAX,
        schema_bytes_max=SCHEMA_MAX,
        description_bytes_max=DESCRIPTION_MAX,
        arguments_bytes_max=ARGUMENTS_MAX,
        result_bytes_max=RESULT_MAX,
        text_bytes_max=TEXT_MAX,
        messages_max=MESSAGES_MAX,
        tool_timeout_max_s=60.0,
        turn_limits_max=TurnLimits(max_steps=32, max_turn_tokens=32_768, max_duration_s=1800.0),
    )
    first: list[Entry] = [Say(step) if isinstance(step, str) else Call("f", step) for step in steps]
    if not first or not isinstance(first[-1], Say):
        first.append(Hang("Er"))
    async with (
        FakeServer(first, [Hang("Er")], model=MODEL, limits=limits) as fake,
        connected(fake.address) as channel,
    ):
        yield StreamDriver(channel, metadata)


def parts(count: int = 1, text: str = "x") -> list[content_pb2.ContentPart]:
    return [content_pb2.ContentPart(text=text) for _ in range(count)]


UNSET = content_pb2.ContentPart()
MEDIA = content_pb2.ContentPart(image=content_pb2.MediaPart())
FIELD, LARGE, SERVED = "FIELD_INVALID", "TOO_LARGE", "NOT_SERVED"


def sent(**fields: Any) -> Request:
    return Request(**fields)


def named(cases: list[Any]) -> list[str]:
    """Returns the names of cases of one kind."""
    return [f"{number}-{reason}-{field}" for number, (reason, field, _) in enumerate(cases)]


def what(error: Failure | None) -> tuple[str, str]:
    """Returns the reason and the field of a refusal."""
    assert error is not None
    return error.reason, error.field
