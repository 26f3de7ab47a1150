"""What a turn's error says when the server is lost: which handlers had begun."""

from __future__ import annotations

import asyncio
import threading

import pytest

import precall
from precall.testing import Call, FakeServer, Hang, Parallel, Say
from tests.clients.helpers import FAST, talking
from tests.support.server_process import server_process

WAIT_S = 20.0


class Files:
    """Tools that begin and never end by themselves."""

    def __init__(self) -> None:
        self.begun = {"read": asyncio.Event(), "write": asyncio.Event()}

    async def read(self, path: str) -> str:
        """Read a file."""
        self.begun["read"].set()
        await asyncio.Event().wait()
        return path

    async def write(self, path: str) -> str:
        """Write a file."""
        self.begun["write"].set()
        await asyncio.Event().wait()
        return path


async def lost(server: FakeServer, asking: asyncio.Task[precall.Answer]) -> precall.PrecallError:
    """Loses the server, and returns the error of the turn."""
    await server.stop()
    with pytest.raises(precall.PrecallError) as caught:
        async with asyncio.timeout(WAIT_S):
            await asking
    return caught.value


async def test_the_error_names_the_tools_that_may_have_had_effects() -> None:
    files = Files()
    both = Parallel([Call("read", {"path": "/a"}), Call("write", {"path": "/b"})])
    async with talking([both]) as (server, conversation):
        await conversation.add_tool(files.read, read_only=True)
        await conversation.add_tool(files.write)
        asking = asyncio.create_task(conversation.ask("go"))
        async with asyncio.timeout(WAIT_S):
            await asyncio.gather(*(begun.wait() for begun in files.begun.values()))
        error = await lost(server, asking)
        assert isinstance(error, precall.ConnectionLostError)
        assert "write (may have had effects)" in error.message
        assert "read (read-only)" in error.message
        assert error.metadata == {"begun": "read, write", "called": "write"}
        with pytest.raises(precall.ConnectionLostError) as later:
            await conversation.ask("again")
        assert "begun" not in later.value.metadata, "that turn has begun nothing"


async def test_reads_alone_are_said_to_be_harmless() -> None:
    files = Files()
    async with talking([Call("read", {"path": "/a"}), Say("done")]) as (server, conversation):
        await conversation.add_tool(files.read, read_only=True)
        asking = asyncio.create_task(conversation.ask("go"))
        async with asyncio.timeout(WAIT_S):
            await files.begun["read"].wait()
        error = await lost(server, asking)
        assert error.metadata == {"begun": "read"}
        assert "may have had effects" not in error.message


async def test_a_turn_without_handlers_names_none() -> None:
    async with talking([Hang("So far")]) as (server, conversation):
        turn = conversation.send("go")
        async with asyncio.timeout(WAIT_S):
            async for event in turn:
                if isinstance(event, precall.TextDelta):
                    break
        asking = asyncio.create_task(turn.answer())
        error = await lost(server, asking)
        assert not error.metadata


async def test_a_server_that_is_killed_leaves_the_names_of_what_had_begun() -> None:
    begun, go_on = threading.Event(), threading.Event()

    def write(path: str) -> str:
        """Write a file."""
        begun.set()
        assert go_on.wait(WAIT_S)
        return path

    try:
        async with (
            server_process() as (address, process),
            precall.Client(address, options=FAST) as client,
            client.conversation(tools=[write]) as conversation,
            asyncio.timeout(WAIT_S),
        ):
            asking = asyncio.create_task(conversation.ask("write /a"))
            await asyncio.to_thread(begun.wait)
            process.kill()
            with pytest.raises(precall.ConnectionLostError, match="write") as caught:
                await asking
            assert caught.value.metadata["called"] == "write"
            go_on.set()
    finally:
        go_on.set()
