"""Readers of a turn that are slow, stop reading, or ask for its answer in the middle."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

import precall
from precall import Client, ClientOptions, Conversation, TextDelta, Turn, TurnCompleted, TurnOutcome
from precall._stream import ConverseStream
from precall.testing import Call, Entry, FakeServer, Hang, Say
from precall.v1 import agent_pb2
from tests.clients.helpers import talking

WORDS = "word " * 500


@asynccontextmanager
async def full(
    *turns: Sequence[Entry],
) -> AsyncGenerator[tuple[Conversation, Turn, AsyncIterator[precall.Event]], None]:
    """Yields a turn of which one event was read, and no more than two can wait."""
    options = ClientOptions(waiting_events_max=2, answer_timeout_s=0.2)
    async with (
        FakeServer(*turns) as server,
        Client(server.address, options=options) as client,
        client.conversation() as conversation,
    ):
        turn = conversation.send("?")
        events = aiter(turn)
        await anext(events)
        yield conversation, turn, events


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


async def test_leaving_a_full_queue_frees_the_stream() -> None:
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
    async with full([Say(WORDS)]) as (_, turn, events):
        answer = await asyncio.wait_for(turn.answer(), 5)
        assert answer.text == WORDS
        assert isinstance([event async for event in events][-1], TurnCompleted)


async def test_a_turn_can_be_cancelled_in_the_middle_of_an_iteration() -> None:
    async with full([Hang(WORDS)]) as (_, turn, events):
        await turn.cancel()
        assert await asyncio.wait_for(turn.answer(), 5)
        assert isinstance([event async for event in events][-1], TurnCompleted)
        assert (await turn.answer()).outcome is TurnOutcome.CANCELLED


async def test_a_tool_stays_when_its_registration_is_not_answered_in_time() -> None:
    async def late() -> str:
        return "there"

    async with full([Say(WORDS)], [Call("late"), Say("yes")]) as (conversation, _, events):
        with pytest.raises(precall.UnavailableError, match="waits behind the events") as caught:
            await conversation.register(late)
        assert not caught.value.reason
        assert [tool.name for tool in conversation.tools] == ["late"]
        async for _ in events:
            pass
        answer = await conversation.ask("now?")
        assert answer.tool_calls[0].result == "there"


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
