"""What a turn has made is freed when it ends, without a garbage collection.

A server looks at each object once (`precall_service.cli.heap`), and most are still in use then.
"""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from types import FrameType

import pytest

from precall.v1 import agent_pb2, prediction_pb2, tool_pb2, turn_pb2
from tests.support.scripts import Item, Pause, calls, in_turn, says
from tests.support.stream import WEATHER, StreamDriver, eventually, running_server

SAFE = tool_pb2.Tool(
    name="weather",
    input_schema_json=WEATHER.input_schema_json,
    effects=tool_pb2.ToolEffects(read_only=True, speculation_safe=True),
)
CALL = ("weather", '{"city": "Rome"}')
Script = Callable[[asyncio.Event], list[list[Item]]]
"""What the model writes in a turn; it may wait for the event."""
Act = Callable[[StreamDriver, str, asyncio.Event], Awaitable[object]]
"""Runs a turn with this id."""


async def answered(stream: StreamDriver, turn: str, _gate: asyncio.Event) -> None:
    await stream.ask(turn_id=turn)


async def with_a_tool(stream: StreamDriver, turn: str, _gate: asyncio.Event) -> None:
    await stream.start(turn_id=turn)
    await stream.answer((await stream.invoked()).invocation_id)
    await stream.completed(turn)


async def with_a_predicted_call(stream: StreamDriver, turn: str, gate: asyncio.Event) -> None:
    await stream.start(turn_id=turn)
    await stream.answer((await stream.invoked()).invocation_id)
    await stream.expect("prediction_ready")
    gate.set()
    await stream.completed(turn)


async def with_an_invalid_result(stream: StreamDriver, turn: str, _gate: asyncio.Event) -> None:
    await stream.start(turn_id=turn)
    await stream.refused(await stream.answer((await stream.invoked()).invocation_id, "{"))
    await stream.completed(turn)


async def cancelled(stream: StreamDriver, turn: str, _gate: asyncio.Event) -> None:
    await stream.start(turn_id=turn)
    await stream.expect("text_delta")
    await stream.send("cancel_turn", turn_pb2.CancelTurn())
    await stream.completed(turn)


async def cancelled_in_a_tool(stream: StreamDriver, turn: str, _gate: asyncio.Event) -> None:
    await stream.start(turn_id=turn)
    await stream.invoked()
    await stream.send("cancel_turn", turn_pb2.CancelTurn())
    await stream.completed(turn)


async def refused(stream: StreamDriver, turn: str, _gate: asyncio.Event) -> None:
    await stream.refused(await stream.send("cancel_turn", turn_pb2.CancelTurn(turn_id=turn)))


ACTS: dict[str, tuple[Script, Act]] = {
    "answered": (lambda _: [says("Hello.")], answered),
    "with a tool": (lambda _: [calls(CALL), says("Done.")], with_a_tool),
    "with a predicted call": (
        lambda gate: [[*calls(CALL), Pause(gate), *says("and")], says("Done.")],
        with_a_predicted_call,
    ),
    "with an invalid result": (lambda _: [calls(CALL), says("Done.")], with_an_invalid_result),
    "cancelled": (lambda gate: [[*says("So far"), Pause(gate)]], cancelled),
    "cancelled in a tool": (lambda _: [calls(CALL)], cancelled_in_a_tool),
    "refused": (lambda _: [], refused),
}


@contextmanager
def no_garbage() -> Generator[None]:
    """Fails if the block leaves objects of ours that only a collection frees."""
    gc.collect()
    gc.disable()
    try:
        yield
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        kinds = Counter(name for left in gc.garbage if (name := _ours(left)))
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert not kinds


def _ours(left: object) -> str:
    """Names an object of the service, or a call of gRPC; empty for others."""
    if isinstance(left, FrameType):
        return left.f_code.co_qualname if "precall_service" in left.f_code.co_filename else ""
    name = f"{type(left).__module__}.{type(left).__qualname__}"
    return name if name.startswith("precall_service") or name.endswith(".RPCState") else ""


@pytest.mark.parametrize("name", ACTS)
async def test_nothing_is_left_of_a_turn(name: str) -> None:
    script, act = ACTS[name]
    first, second = asyncio.Event(), asyncio.Event()
    wish = prediction_pb2.SpeculationSettings(send_events=True)
    async with running_server(in_turn(*script(first), *script(second))) as server:
        stream = server.stream()
        await stream.open(agent_pb2.OpenConversation(tools=[SAFE], speculation=wish))
        await act(stream, "first", first)  # what is made once stays
        await eventually(lambda: not server.services.admission.admitted)
        with no_garbage():
            await act(stream, "second", second)
            await eventually(lambda: not server.services.admission.admitted)
            await server.nothing_is_generated()
        await stream.close()


async def test_nothing_is_left_of_a_call_that_ends_with_an_error() -> None:
    """Its first message would be kept with it, however large that was."""
    async with running_server() as server:
        with no_garbage():
            for _ in range(3):
                stream = server.stream()
                await stream.send_raw(b"no frame")
                assert await stream.ended() is not None
            await server.nothing_is_left()


async def test_nothing_is_left_of_schemas_that_are_not_used_any_more() -> None:
    names = [f"name{number}" for number in range(3)]
    async with running_server() as server:
        with no_garbage():
            stream = await server.opened(*(tool_pb2.Tool(name=name) for name in names), SAFE)
            await stream.close()
            await server.nothing_is_left()
