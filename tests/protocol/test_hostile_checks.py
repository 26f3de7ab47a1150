"""A client that declares and answers what takes longest to compile and check, on a real server."""

from __future__ import annotations

import asyncio
import json

from precall.v1 import tool_pb2, turn_pb2
from precall_service.tools.checks import AT_ONCE_CHARS_MAX
from tests.support.costly_checks import none_of
from tests.support.loop_watch import watched_loop
from tests.support.scripts import calls, in_turn, says
from tests.support.stream import StreamDriver, running_server

COSTLY = none_of({"enum": [number + 0.5 for number in range(5000)]})
HOSTILE = tool_pb2.Tool(name="hostile", output_schema_json=json.dumps(COSTLY))
HONEST = tool_pb2.Tool(name="honest", output_schema_json='{"items": {"minimum": 0}}')
LARGE = json.dumps([1] * AT_ONCE_CHARS_MAX)


async def answered(stream: StreamDriver, result_json: str) -> turn_pb2.ToolCallCompleted:
    """The end of the call of a turn."""
    await stream.start()
    invocation = await stream.invoked()
    await stream.answer(invocation.invocation_id, result_json)
    ended = await stream.call_completed()
    await stream.completed()
    return ended


async def test_costly_schemas_and_results_do_not_stop_the_loop() -> None:
    patterns = [{"pattern": f".{{1000}}{number}"} for number in range(128)]
    frame = tool_pb2.RegisterTools(
        tools=[
            tool_pb2.Tool(
                name=f"t{number}",
                input_schema_json=json.dumps({"type": "object", "anyOf": patterns}),
            )
            for number in range(24)
        ]
    )
    async with running_server(
        in_turn(calls(("hostile", "{}")), says("Done."), calls(("honest", "{}")), says("Done."))
    ) as server:
        hostile = await server.opened(HOSTILE)
        honest = await server.opened(HONEST)
        async with watched_loop() as watch:
            await hostile.send("register_tools", frame)
            registered = (await hostile.expect("tools_registered")).tools_registered
            refused = await answered(hostile, json.dumps([-1] * 5000))
            fits = await answered(honest, LARGE)
        assert all(each.HasField("error") for each in registered.registrations)
        assert refused.outcome == turn_pb2.TOOL_CALL_OUTCOME_ERROR
        assert "takes more than 1 s to be checked" in refused.error.message
        assert fits.outcome == turn_pb2.TOOL_CALL_OUTCOME_RESULT
        watch.assert_free()
        await asyncio.gather(hostile.close(), honest.close())
