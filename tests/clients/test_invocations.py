"""Invocations start and are cancelled without waiting, and their answers are bounded."""

from __future__ import annotations

import asyncio
from contextvars import copy_context

import pytest

import precall
from precall import Client, ClientOptions, Tool
from precall._stream import ConverseStream
from precall.testing import Call, FakeServer, Parallel, Say
from precall.v1 import agent_pb2, invocation_pb2
from tests.clients.helpers import FAST, invoking


def invoke(number: int, tool_name: str) -> invocation_pb2.Invoke:
    return invocation_pb2.Invoke(invocation_id=str(number), tool_name=tool_name)


async def test_a_cancellation_overtakes_an_invocation_that_waits_for_a_slot() -> None:
    started, release = asyncio.Event(), asyncio.Event()

    async def work() -> str:
        started.set()
        await release.wait()
        return "done"

    async with invoking(FAST) as (invocations, sent):
        invocations.tools["work"] = Tool.from_function(work, max_concurrency=1)
        for number in range(3):
            invocations.start(invoke(number, "work"), copy_context())
        await started.wait()
        invocations.cancel(invocation_pb2.CancelInvocation(invocation_id="1"))
        cancelled = (await sent.get()).invocation_result
        assert (cancelled.invocation_id, cancelled.WhichOneof("outcome")) == ("1", "cancelled")
        release.set()
        done = [(await sent.get()).invocation_result for _ in range(2)]
        assert [(result.invocation_id, result.result_json) for result in done] == [
            ("0", '"done"'),
            ("2", '"done"'),
        ]


async def test_answers_that_the_server_does_not_take_are_bounded() -> None:
    answering, room = asyncio.Semaphore(0), asyncio.Event()
    answered: list[str] = []

    async def send(frame: agent_pb2.ConverseRequest) -> None:
        answering.release()
        await room.wait()
        answered.append(frame.invocation_result.invocation_id)
        answering.release()

    async with invoking(ClientOptions(invocations_max=2), send) as (invocations, _):
        for number in range(2):
            invocations.start(invoke(number, "gone"), copy_context())
            await answering.acquire()  # it has ended, and counts until its answer has left
        for number in range(2, 4):
            invocations.start(invoke(number, "gone"), copy_context())
            await answering.acquire()
        with pytest.raises(precall.ServerError, match="took no answer"):
            invocations.start(invoke(4, "gone"), copy_context())
        room.set()
        for _ in range(4):
            await answering.acquire()
        assert answered == ["0", "1", "2", "3"]


async def test_a_server_that_takes_no_answers_loses_the_stream(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def stuck(stream: ConverseStream, frame: agent_pb2.ConverseRequest) -> int:
        if frame.WhichOneof("frame") == "invocation_result":
            await asyncio.get_running_loop().create_future()
        return await send(stream, frame)

    async def work() -> None: ...

    send = ConverseStream.send
    monkeypatch.setattr(ConverseStream, "send", stuck)
    options = ClientOptions(invocations_max=1, close_timeout_s=0.3)
    script = [Parallel([Call("work")] * 3), Say("x")]
    async with (
        FakeServer(script) as server,
        Client(server.address, options=options) as client,
        client.conversation(tools=[work]) as conversation,
    ):
        with pytest.raises(precall.ServerError, match="took no answer"):
            await conversation.ask("go")


async def test_an_unknown_tool_is_answered_in_words() -> None:
    async with invoking(FAST) as (invocations, sent):
        invocations.start(invoke(1, "gone"), copy_context())
        result = (await sent.get()).invocation_result
    assert (result.invocation_id, result.error.type) == ("1", "ToolUnknown")
    assert "no tool 'gone'" in result.error.message
