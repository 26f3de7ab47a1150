"""Two server processes on one Redis, and one that is killed in the middle of a write."""

from __future__ import annotations

import asyncio
import threading

import precall
from tests.support.redis_server import RedisServer
from tests.support.server_process import server_process

WAIT_S = 20.0
OVERDUE_S = 3600.0


class File:
    """A file, with tools that read it and write it. Writing takes until it is let through."""

    def __init__(self) -> None:
        self.value = "old"
        self.reads = 0
        self.writing = threading.Event()
        self.let_through = threading.Event()
        self.written = threading.Event()

    def read(self, path: str) -> str:
        """Read a file."""
        self.reads += 1
        return self.value

    def write(self, path: str) -> str:
        """Write a file."""
        self.writing.set()
        assert self.let_through.wait(WAIT_S)
        self.value = "new"
        self.written.set()
        return "written"

    def register(self, client: precall.Client) -> None:
        client.add_tool(
            self.read,
            version="1",
            read_only=True,
            reads=["file:{path}"],
            cache_ttl_s=86_400,
            cache_scope="tenant",
        )
        client.add_tool(self.write, writes=["file:{path}"], timeout_s=5)


async def result(conversation: precall.Conversation, text: str) -> str:
    answer = await conversation.ask(text)
    [call] = answer.tool_calls
    assert call.result_json is not None
    return call.result_json.strip('"')


async def test_what_one_process_writes_the_other_reads(redis_server: RedisServer) -> None:
    file = File()
    file.let_through.set()
    async with (
        server_process(redis_server.url) as (here, _),
        server_process(redis_server.url) as (there, _),
        precall.Client(here) as one,
        precall.Client(there) as other,
    ):
        file.register(one)
        file.register(other)
        async with one.conversation() as first, other.conversation() as second:
            assert await result(first, "read /a") == "old"
            assert await result(second, "read /a") == "old"
            assert file.reads == 1, "the other process has the result as well"
            await result(second, "write /a")
            assert await result(first, "read /a") == "new"
            assert file.reads == 2


async def test_a_process_is_killed_while_its_handler_writes(redis_server: RedisServer) -> None:
    """What was read meanwhile becomes stale when the write is overdue, though nobody ended it."""
    file = File()
    async with (
        server_process(redis_server.url) as (here, process),
        server_process(redis_server.url) as (there, _),
        precall.Client(here) as one,
        precall.Client(there) as other,
        asyncio.timeout(WAIT_S),
    ):
        file.register(one)
        file.register(other)
        async with other.conversation() as second:
            assert await result(second, "read /a") == "old"
            async with one.conversation() as first:
                turn = asyncio.create_task(result(first, "write /a"))
                await asyncio.to_thread(file.writing.wait)
                assert await result(second, "read /a") == "old"
                assert file.reads == 2, "what was read before the write began is not used"
                process.kill()
                await asyncio.wait([turn])
                assert turn.exception() is not None
            file.let_through.set()
            await asyncio.to_thread(file.written.wait)
            redis_server.pass_time(OVERDUE_S)
            assert await result(second, "read /a") == "new"
