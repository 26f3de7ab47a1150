"""The fake server keeps to the contract, for other clients too."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Sequence

import grpc
import grpc.aio
import pytest
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

import precall
from precall.testing import Call, Fail, FakeServer, Hang, Parallel, Say, ToolResult
from precall.v1 import agent_pb2, tool_pb2, turn_pb2
from precall.v1.agent_pb2_grpc import AgentServiceStub
from tests.clients.helpers import talking
from tests.support.stream import StreamDriver, connected
from tests.support.wire import said

Request = agent_pb2.ConverseRequest


async def converse(server: FakeServer, *frames: Request) -> list[agent_pb2.ConverseResponse]:
    """Sends frames as a raw client, half-closes, and returns all frames of the server."""

    async def sent() -> AsyncIterator[Request]:
        for number, frame in enumerate(frames, start=1):
            frame.sequence = number
            yield frame

    async with grpc.aio.insecure_channel(server.address) as channel:
        call = AgentServiceStub(channel).Converse(sent())
        return [response async for response in call]


async def test_the_first_frame_is_the_handshake() -> None:
    async with FakeServer() as server:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await converse(server, Request(start_turn=turn_pb2.StartTurn(content=said("?"))))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    metadata = caught.value.trailing_metadata()
    assert metadata is not None
    details = metadata["grpc-status-details-bin"]
    assert isinstance(details, bytes)
    info = ErrorInfo()
    assert Status.FromString(details).details[0].Unpack(info)
    assert (info.reason, info.domain) == ("ERROR_REASON_HANDSHAKE_REQUIRED", "precall")


async def test_a_function_of_a_script_gets_the_results_so_far() -> None:
    async def roll() -> int:
        return 4

    def answer(results: Sequence[ToolResult]) -> Say:
        return Say(f"a {results[0].value}")

    async with talking([Call("roll"), answer], tools=(roll,)) as (_, conversation):
        assert str(await conversation.ask("?")) == "a 4"


async def test_a_call_or_turn_outside_the_script_fails_the_turn_with_the_reason() -> None:
    async with talking([Call("missing")]) as (_, conversation):
        with pytest.raises(precall.ServerError, match=r"calls 'missing', which .* were: none"):
            await conversation.ask("first")
        with pytest.raises(precall.ServerError, match="turn 2 was started, 1 are scripted"):
            await conversation.ask("second")


async def test_a_script_without_an_answer_ends_with_an_empty_one() -> None:
    async with talking([]) as (_, conversation):
        assert str(await conversation.ask("?")) == ""


async def test_the_version_of_a_tool_is_the_clients_or_made_up() -> None:
    tools = [tool_pb2.Tool(name="a", version="7"), tool_pb2.Tool(name="b")]
    async with FakeServer() as server:
        (opened,) = await converse(server, Request(open=agent_pb2.OpenConversation(tools=tools)))
    assert [said.version for said in opened.opened.registrations] == ["7", "1"]


async def test_it_keeps_the_order_of_the_contract() -> None:
    """The driver checks every frame by the same rules as for the real server."""
    scripts = (
        [Call("a", text="Well.", reasoning="Hm."), Parallel([Call("a"), Call("b")]), Say("Done.")],
        [Fail("ENGINE_FAILED")],
        [Hang("Er")],
        [Call("a")],
    )
    async with FakeServer(*scripts) as server, connected(server.address) as channel:
        stream = StreamDriver(channel)
        tools = [tool_pb2.Tool(name="a"), tool_pb2.Tool(name="b")]
        await stream.open(agent_pb2.OpenConversation(tools=tools))
        await stream.start(turn_id="t1")
        for _ in range(3):
            await stream.answer((await stream.invoked()).invocation_id)
        assert (await stream.completed("t1")).text == "Done."
        assert (await stream.ask(turn_id="t2")).outcome == turn_pb2.TURN_OUTCOME_FAILED
        for number, waits_in in ((3, "text_delta"), (4, "invoke")):
            await stream.start(turn_id=f"t{number}")
            await stream.expect(waits_in)
            await stream.send("cancel_turn", turn_pb2.CancelTurn())
            ended = await stream.completed(f"t{number}")
            assert ended.outcome == turn_pb2.TURN_OUTCOME_CANCELLED
        await stream.close()


def test_without_its_extra_the_import_says_what_to_install() -> None:
    code = "import sys; sys.modules['jsonschema_rs'] = None; import precall.testing"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "precall.testing needs jsonschema_rs: pip install 'precall[testing]'" in done.stderr
