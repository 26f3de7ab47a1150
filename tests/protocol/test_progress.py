"""Progress of handlers, which is forwarded to the client that reads the turn."""

from __future__ import annotations

import pytest

from precall.v1 import invocation_pb2, turn_pb2
from tests.support.scripts import Script, calls, in_turn, says
from tests.support.stream import WEATHER, StreamDriver, running_server

Progress = invocation_pb2.InvocationProgress


def script() -> Script:
    return in_turn(calls(("weather", '{"city":"Rome"}')), says("Done."))


async def done(stream: StreamDriver) -> None:
    """Checks that the turn ends with the model's answer, and closes the stream."""
    assert (await stream.completed()).outcome == turn_pb2.TURN_OUTCOME_ANSWERED
    await stream.close()


async def test_progress_is_forwarded() -> None:
    async with running_server(script()) as server:
        stream = await server.opened(WEATHER)
        await stream.start()
        invoke = await stream.invoked()
        for message, fraction in (("looking", None), ("", 0.0), ("é" * 5000, 1.0)):
            progress = Progress(
                invocation_id=invoke.invocation_id, message=message, fraction=fraction
            )
            await stream.send("invocation_progress", progress)
            sent = (await stream.expect("tool_call_progress")).tool_call_progress
            assert sent.call_id == invoke.call_id
            assert sent.HasField("fraction") == (fraction is not None)
            assert sent.fraction == (fraction or 0.0)
            assert sent.message[:7] == message[:7]
            assert len(sent.message) <= 1024
        await stream.answer(invoke.invocation_id)
        await done(stream)


@pytest.mark.parametrize("fraction", [-0.01, 1.01, float("nan"), float("inf")])
async def test_progress_beyond_its_range_is_refused(fraction: float) -> None:
    async with running_server(script()) as server:
        stream = await server.opened(WEATHER)
        await stream.start()
        invoke = await stream.invoked()
        progress = Progress(invocation_id=invoke.invocation_id, fraction=fraction)
        error = await stream.refused(await stream.send("invocation_progress", progress))
        assert error.reason == "FIELD_INVALID"
        assert error.field == "invocation_progress.fraction"
        await stream.answer(invoke.invocation_id)
        await done(stream)
