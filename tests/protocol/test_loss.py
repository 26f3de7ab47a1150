"""Clients that leave, are silent or do not read: only their own turns are affected."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable, Coroutine, Iterator, Sequence, Sized
from dataclasses import replace
from typing import overload

import grpc
import pytest

from precall.v1 import agent_pb2, tool_pb2, turn_pb2
from precall_service.agent.conversation import Conversation
from precall_service.agent.outbox import Outbox
from precall_service.engine.base import TextPiece
from tests.support.scripted_engine import INFO
from tests.support.scripted_template import prompt_text
from tests.support.scripts import Item, Pause, Script, always, calls, in_turn, says
from tests.support.stream import (
    WEATHER,
    RunningServer,
    StreamDriver,
    connected,
    eventually,
    running_server,
)
from tests.support.wire import failure

WITH_WEATHER = agent_pb2.OpenConversation(tools=[WEATHER])
CALL = calls(("weather", '{"city":"Rome"}'))


async def generating(stream: StreamDriver) -> None:
    await stream.expect("text_delta")


async def running_a_tool(stream: StreamDriver) -> None:
    await stream.invoked()


Phase = Callable[[StreamDriver], Coroutine[None, None, None]]


def held(*steps: list[Item]) -> Script:
    """A script of these steps and then one that never ends."""
    return in_turn(*steps, [*says("So far"), Pause(asyncio.Event())])


PHASES: dict[str, tuple[list[list[Item]], Phase]] = {
    "generating": ([], generating),
    "running a tool": ([CALL], running_a_tool),
}


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("how", ["cancels the call", "closes its channel"])
async def test_a_client_that_vanishes_leaves_nothing_behind(phase: str, how: str) -> None:
    steps, reached = PHASES[phase]
    async with running_server(held(*steps)) as server:
        channel = connected(server.service.address)
        stream = StreamDriver(channel)
        await stream.open(WITH_WEATHER)
        await stream.start()
        await reached(stream)
        assert server.services.admission.admitted == 1
        if how == "cancels the call":
            stream.call.cancel()
        else:
            await channel.close()
        await server.nothing_is_left()
        await eventually(lambda: server.timers == 0)
        await channel.close()


async def test_a_client_that_vanishes_idle_leaves_nothing_behind() -> None:
    async with running_server() as server:
        stream = await server.opened()
        stream.call.cancel()
        await server.nothing_is_left()
        await eventually(lambda: server.timers == 0)


async def test_a_client_that_vanishes_before_the_handshake_leaves_nothing_behind() -> None:
    async with running_server() as server:
        stream = server.stream()
        await eventually(lambda: server.timers == 1)
        stream.call.cancel()
        await eventually(lambda: server.timers == 0)


async def test_half_closing_lets_a_turn_finish() -> None:
    done = asyncio.Event()
    async with running_server(in_turn([*says("So"), Pause(done), *says(" far.")])) as server:
        stream = await server.opened()
        await stream.start()
        await stream.expect("text_delta")
        await stream.half_close()
        done.set()
        ended = await stream.completed()
        assert ended.outcome == turn_pb2.TURN_OUTCOME_ANSWERED
        assert ended.text == "So far."
        assert await stream.ended() is None


async def test_half_closing_while_a_tool_runs_ends_its_call_and_the_turn_continues() -> None:
    async with running_server(in_turn(CALL, says("I do not know."))) as server:
        stream = await server.opened(WEATHER)
        await stream.start()
        await stream.invoked()
        await stream.half_close()
        completed = await stream.call_completed()
        assert completed.outcome == turn_pb2.TOOL_CALL_OUTCOME_UNAVAILABLE
        assert failure(completed.error).reason == "TOOL_UNAVAILABLE"
        assert (await stream.completed()).text == "I do not know."
        assert await stream.ended() is None
        assert "tool_unavailable" in prompt_text(server.engine.prompts[-1])


async def test_after_half_closing_tools_are_unavailable() -> None:
    done = asyncio.Event()
    async with running_server(in_turn([Pause(done), *CALL], says("I do not know."))) as server:
        stream = await server.opened(WEATHER)
        await stream.start()
        await stream.expect("step_started")
        await stream.half_close()
        done.set()
        completed = await stream.call_completed()
        assert completed.outcome == turn_pb2.TOOL_CALL_OUTCOME_UNAVAILABLE
        assert (await stream.completed()).text == "I do not know."
        assert await stream.ended() is None


class Counted(Sequence[Item]):
    """A step of many equal pieces that counts those that were generated."""

    def __init__(self, piece: str, count: int) -> None:
        self._piece = piece
        self._count = count
        self.said = 0

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Item]: ...
    def __getitem__(self, index: int | slice) -> Item | Sequence[Item]:
        raise NotImplementedError

    def __iter__(self) -> Iterator[Item]:
        for _ in range(self._count):
            self.said += 1
            yield TextPiece(self._piece)


PIECES, PIECE, EVENTS_MAX = 500, "x" * 4096, 8
LARGE = replace(INFO, context_tokens_max=1 << 25, kv_tokens=1 << 26)


async def test_a_slow_reader_delays_only_its_own_generation_and_nothing_is_lost() -> None:
    step = Counted(PIECE, PIECES)
    conversations = {"events_max": EVENTS_MAX, "turn_tokens_max": 1 << 24}
    script = in_turn(step, says("Hello."))
    async with running_server(script, info=LARGE, conversations=conversations) as server:
        slow, other = await server.opened(), await server.opened()
        await slow.start()
        await eventually(lambda: any(map(full, outboxes(server))))
        assert (await other.ask()).text == "Hello."
        assert all(len(waiting(outbox)) <= EVENTS_MAX for outbox in outboxes(server))
        assert step.said < PIECES / 2, "unread text must stop the generation"
        assert len((await slow.completed()).text) == PIECES * len(PIECE)
        assert slow.kinds().count("text_delta") < PIECES, "what waits is joined"
        await slow.close()
        await other.close()


async def test_a_slow_reader_can_be_cancelled() -> None:
    conversations = {"events_max": EVENTS_MAX, "turn_tokens_max": 1 << 24}
    script = in_turn(Counted(PIECE, PIECES))
    async with running_server(script, info=LARGE, conversations=conversations) as server:
        slow = await server.opened()
        await slow.start()
        await eventually(lambda: any(map(full, outboxes(server))))
        slow.call.cancel()
        await server.nothing_is_left()


async def test_a_client_that_reads_nothing_loses_its_stream() -> None:
    conversations = {"events_max": EVENTS_MAX, "turn_tokens_max": 1 << 24}
    script = in_turn(Counted(PIECE, PIECES))
    async with running_server(
        script, info=LARGE, conversations=conversations, server={"unread_s": 5.0}
    ) as server:
        stuck = await server.opened()
        await stuck.start()
        await eventually(lambda: any(map(full, outboxes(server))))
        server.clock.advance(4.9)
        assert len(server.service.conversations) == 1
        server.clock.advance(5.0)
        await server.nothing_is_left()
        error = await stuck.ended()
        assert error is not None
        assert error.reason == "FLOW_LIMIT"
        assert "5 s" in error.message


async def test_a_client_that_reads_only_small_frames_loses_its_stream_and_nothing_is_left() -> None:
    async with (
        running_server(in_turn(says("x" * 5000))) as server,
        connected(server.service.address, ("grpc.max_receive_message_length", 4096)) as channel,
    ):
        stream = StreamDriver(channel)
        await stream.open()
        await stream.start()
        while await stream.next() is not None:
            pass
        assert await stream.call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        await server.nothing_is_left()


async def test_a_client_that_sends_and_does_not_read_delays_only_itself() -> None:
    """Its frames are refused. Since it does not read the refusals, the server stops reading too."""
    conversations = {"events_max": EVENTS_MAX}
    async with running_server([says("Hello.")], conversations=conversations) as server:
        flood, other = await server.opened(), await server.opened()
        bad = tool_pb2.RegisterTools(tools=[tool_pb2.Tool(name="?")] * 100)

        async def send_for_ever() -> None:
            while True:
                await flood.send("register_tools", bad)

        sending = asyncio.create_task(send_for_ever())
        await eventually(lambda: any(map(full, outboxes(server))))
        assert (await other.ask()).text == "Hello."
        assert all(len(waiting(outbox)) <= EVENTS_MAX for outbox in outboxes(server))
        sending.cancel()
        await asyncio.wait([sending])
        flood.call.cancel()
        await other.close()


def outboxes(server: RunningServer) -> list[Outbox]:
    """The outbox of each conversation."""
    return [conversation.outbox for conversation in open_conversations(server)]


def open_conversations(server: RunningServer) -> set[Conversation]:
    return server.service.conversations._open  # pyright: ignore[reportPrivateUsage]


def running_turn(conversation: weakref.ref[Conversation]) -> object:
    open_one = conversation()
    assert open_one is not None
    return open_one._turn  # pyright: ignore[reportPrivateUsage]


def waiting(outbox: Outbox) -> Sized:
    return outbox._events  # pyright: ignore[reportPrivateUsage]


def full(outbox: Outbox) -> bool:
    return len(waiting(outbox)) == EVENTS_MAX


async def test_a_conversation_that_was_frozen_is_freed_when_it_ends() -> None:
    """At a restart of the engine, all that lives is taken out of the garbage collection."""
    async with running_server(always(says("Hello."))) as server:
        stream = await server.opened(WEATHER)
        await stream.ask()
        [conversation] = open_conversations(server)
        left = weakref.ref(conversation)
        await eventually(lambda: running_turn(left) is None)
        del conversation
        gc.collect()
        gc.freeze()
        try:
            await stream.close()
            await server.nothing_is_left()
            server.clock.advance(2 * server.service.conversations.limits.idle_expiry_s)
            gc.collect()
            assert left() is None
        finally:
            gc.unfreeze()


@pytest.mark.parametrize("how", ["cancels the call", "closes its channel"])
async def test_what_a_client_that_leaves_had_is_freed_without_a_collection(how: str) -> None:
    """A storm of clients that leave would be much to collect, all at once."""
    async with running_server() as server:
        channel = connected(server.service.address)
        stream = StreamDriver(channel)
        await stream.open(WITH_WEATHER)
        [conversation] = open_conversations(server)
        left = weakref.ref(conversation)
        del conversation
        gc.disable()
        try:
            if how == "cancels the call":
                stream.call.cancel()
            else:
                await channel.close()
            await eventually(lambda: left() is None)
        finally:
            gc.enable()
        await channel.close()
