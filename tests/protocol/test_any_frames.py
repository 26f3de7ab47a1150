"""After any frames in any order, the stream keeps the contract and other streams are unaffected."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from precall.v1 import agent_pb2
from tests.support.any_frames import frames
from tests.support.scripts import Script, calls, in_turn, says
from tests.support.stream import WEATHER, running_server

KINDS = [
    field.name
    for field in agent_pb2.ConverseRequest.DESCRIPTOR.oneofs_by_name["frame"].fields
    if field.name != "close"
]
UNCHECKED = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
SMALL = {"tools_max": 3, "timeout_max_s": 5.0}


# Every second step makes a call, so that turns both continue and end.
STEPS = [calls(("weather", '{"city":"Rome"}')), says("Hello.")]


def talkative() -> Script:
    return in_turn(*STEPS * 20)


@settings(max_examples=60, suppress_health_check=UNCHECKED)
@given(st.lists(st.sampled_from(KINDS).flatmap(frames), max_size=12))
async def test_any_frames(sent: list[agent_pb2.ConverseRequest]) -> None:
    async with running_server(talkative(), tools=SMALL) as server:
        stream, other = await server.opened(WEATHER), await server.opened()
        for frame in sent:
            frame.sequence = stream.sent + 1
            await stream.send_raw(frame)
        await stream.close()
        await other.ask()
        await other.close()
