"""Readers of a turn that are slow, stop reading, or ask for its answer in the middle."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

import precall
from precall import Client, ClientOptions, TextDelta, Turn, TurnCompleted, TurnOutcome
from precall._replies import Replies, Reply
from precall._stream import ConverseStream
from precall.testing import Call, Entry, FakeServer, Hang, Say
from precall.v1 import agent_pb2
from tests.clients.helpers import talking

WORDS = "word " * 500


@asynccontextmanager
async def full(
    *turns: Sequence[Entry],
) -> AsyncGenerator[tuple[Turn, AsyncIterator[precall.Event]], None]:
    """Yields a turn of which one event was read; from two waiting events on, pieces merge."""
    options = ClientOptions(waiting_events_max=2)
    async with (
        FakeServer(*turns) as server,
        Client(server.address, options=options) as client,
        client.conversation() as conversation,
    ):
        turn = conversation.send("?")
        events = aiter(turn)
        await anext(events)
        yield turn, events


async def test_a_slow_reader_gets_everything() -> None:
    options = ClientOptions(waiting_events_max=2, acknowledge_every=3)
    words = " ".join(map(str, range(200)))
    async with (
        FakeServer([Say(words)], [Say("next")]) as server,
        Client(server.address, options=options) as client,
        client.conversation() as conversation,
    ):
        text = ""
        async for event in conversation.send("?"):
            await asyncio.sleep(0)
            if isinstance(event, TextDelta):
                text += event.text
        assert text == words
        await conversation.ask("?")
    numbers = [frame.sequence for frame in server.frames]
    acknowledged = [frame.acknowledged for frame in server.frames]
    assert numbers == list(range(1, len(numbers) + 1))
    assert acknowledged == sorted(acknowledged)
    assert acknowledged[-1] > 200


async def test_a_turn_with_unread_events_can_be_left() -> None:
    options = ClientOptions(waiting_events_max=2)
    async with (
        FakeServer([Say("word " * 500)], [Say("next")]) as server,
        Client(server.address, options=options) as client,
        client.conversation() as conversation,
    ):
        async for _ in conversation.send("?"):
            break
        assert str(await asyncio.wait_for(conversation.ask("?"), 5)) == "next"


async def test_an_answer_in_the_middle_of_an_iteration_comes() -> None:
    async with full([Say(WORDS)]) as (turn, events):
        answer = await asyncio.wait_for(turn.answer(), 5)
        assert answer.text == WORDS
        read = [event async for event in events]
        assert isinstance(read[-1], TurnCompleted)
        assert "".join(event.text for event in read if isinstance(event, TextDelta)) == WORDS


async def test_a_turn_can_be_cancelled_in_the_middle_of_an_iteration() -> None:
    async with full([Hang(WORDS)]) as (turn, events):
        await turn.cancel()
        assert await asyncio.wait_for(turn.answer(), 5)
        assert isinstance([event async for event in events][-1], TurnCompleted)
        assert (await turn.answer()).outcome is TurnOutcome.CANCELLED


def lose(replies: Replies, reply: Reply) -> None:
    """Takes an answer of the server and passes it to no one."""


async def test_a_tool_stays_when_the_server_does_not_answer_in_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def late() -> str:
        return "there"

    async with talking([Call("late"), Say("yes")]) as (_, conversation):
        with monkeypatch.context() as patched:
            patched.setattr(Replies, "settle", lose)
            with pytest.raises(precall.UnavailableError, match="did not answer within") as caught:
                await conversation.add_tool(late)
        assert not caught.value.reason
        assert [tool.name for tool in conversation.tools] == ["late"]
        answer = await conversation.ask("now?")
        assert answer.tool_calls[0].result == "there"


async def test_unread_events_delay_neither_invocations_nor_cancellations_nor_answers() -> None:
    started, ended = asyncio.Event(), asyncio.Event()

    async def endless() -> None:
        started.set()
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    script = [Call("endless", text="word " * 10_000)]
    async with talking(script, tools=(endless,)) as (_, conversation):
        turn = conversation.send("?")
        events = aiter(turn)
        await anext(events)
        await asyncio.wait_for(started.wait(), 10)
        await conversation.remove_tool("endless")
        await turn.cancel()
        await asyncio.wait_for(ended.wait(), 5)
        read = [event async for event in events]
    text = "".join(event.text for event in read if isinstance(event, TextDelta))
    assert text == "word " * 10_000
    assert len(read) < 2_000
    assert isinstance(read[-1], TurnCompleted)


async def test_a_cancel_that_was_not_sent_can_be_sent_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    send = ConverseStream.send

    async def stuck(stream: ConverseStream, frame: agent_pb2.ConverseRequest) -> int:
        if frame.WhichOneof("frame") == "cancel_turn":
            await asyncio.get_running_loop().create_future()
        return await send(stream, frame)

    async with talking([Hang()]) as (_, conversation):
        turn = conversation.send("?")
        events = aiter(turn)
        await anext(events)
        with monkeypatch.context() as patched:
            patched.setattr(ConverseStream, "send", stuck)
            cancelling = asyncio.ensure_future(turn.cancel())
            await asyncio.sleep(0)
            cancelling.cancel()
            await asyncio.wait({cancelling})
        await turn.cancel()
        answer = await asyncio.wait_for(turn.answer(), 5)
        assert answer.outcome is TurnOutcome.CANCELLED
