"""Two servers that keep their tool cache in one Redis, seen by their clients."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest

import precall
from precall_service.app import serve
from precall_service.settings import load_settings
from tests.support.cached import read, turns, write
from tests.support.redis_server import RedisServer, running_redis
from tests.support.stream import Engines

WAIT_S = 20.0
TURNS = 12
ROUNDS = 3


class Host:
    """A client of one server, with tools that read and write files which all servers share."""

    def __init__(self, files: dict[str, str], client: precall.Client) -> None:
        self.client = client
        self._files = files
        self.read_runs = 0
        client.add_tool(
            self.read,
            version="1",
            read_only=True,
            reads=["file:{path}"],
            cache_ttl_s=600,
            cache_scope="tenant",
        )
        client.add_tool(self.write, writes=["file:{path}"])

    def read(self, path: str) -> str:
        """Read a file."""
        self.read_runs += 1
        return self._files.get(path, "")

    def write(self, path: str) -> int:
        """Write the next number to a file."""
        number = int(self._files.get(path, "0")) + 1
        self._files[path] = str(number)
        return number

    async def turn(
        self, conversation: precall.Conversation
    ) -> tuple[str, precall.ToolCallCompleted]:
        """Takes a turn of the script; returns the tool that it called, and how the call ended."""
        events = [event async for event in conversation.send("go on")]
        [ready] = [event for event in events if isinstance(event, precall.ToolCallReady)]
        [completed] = [event for event in events if isinstance(event, precall.ToolCallCompleted)]
        return ready.tool_name, completed

    async def until_available(self) -> None:
        """Returns once the server can use its store again."""
        async with asyncio.timeout(WAIT_S):
            while not (await self.client.cache.stats()).store_available:
                pass


@asynccontextmanager
async def host(
    files: dict[str, str], redis: RedisServer, *calls: tuple[str, str]
) -> AsyncGenerator[Host]:
    settings = load_settings(
        None, {"server": {"port": 0, "drain_s": 0}, "cache": {"store_url": redis.url}}
    )
    engines = Engines(turns(*calls))
    async with (
        serve(settings, engines, model="script", on_progress=_ignore) as service,
        precall.Client(service.address) as client,
    ):
        yield Host(files, client)


def _ignore(_stage: str, _fraction: float | None) -> None:
    pass


def value(completed: precall.ToolCallCompleted) -> str:
    return completed.result_json.strip('"')


async def test_a_result_of_one_server_answers_a_call_at_the_other(
    redis_server: RedisServer,
) -> None:
    files = {"/a": "7"}
    async with (
        host(files, redis_server, read("/a"), read("/a")) as one,
        host(files, redis_server, read("/a"), write("/a")) as other,
        one.client.conversation() as first,
        other.client.conversation() as second,
    ):
        _, ran = await one.turn(first)
        assert ran.source is precall.ResultSource.COMMITTED
        _, hit = await other.turn(second)
        assert (hit.source, value(hit)) == (precall.ResultSource.CACHE, "7")
        assert other.read_runs == 0
        await other.turn(second)
        _, after = await one.turn(first)
        assert (after.source, value(after)) == (precall.ResultSource.COMMITTED, "8")


class Ledger:
    """The last number whose write had ended."""

    def __init__(self) -> None:
        self.written = 0


async def take_turns(there: Host, ledger: Ledger, turns_taken: int) -> None:
    """Takes turns, each of which must see every write that had ended before it."""
    async with there.client.conversation() as conversation:
        for _ in range(turns_taken):
            before = ledger.written
            tool, completed = await there.turn(conversation)
            assert completed.error is None
            assert int(value(completed) or 0) >= before
            if tool == "write":
                ledger.written = max(ledger.written, int(value(completed)))


@pytest.mark.parametrize("aof", [False, True], ids=["in memory", "on disk"])
async def test_redis_is_killed_and_restarted_under_load(aof: bool) -> None:
    files: dict[str, str] = {}
    ledger = Ledger()
    calls = [
        write("/a") if number % 4 == 0 else read("/a") for number in range(ROUNDS * 4 * TURNS + 2)
    ]
    with running_redis(aof=aof) as redis:
        async with (
            host(files, redis, *calls) as one,
            host(files, redis, *calls[2:]) as other,
        ):

            async def both() -> None:
                async with asyncio.timeout(WAIT_S), asyncio.TaskGroup() as group:
                    group.create_task(take_turns(one, ledger, TURNS))
                    group.create_task(take_turns(other, ledger, TURNS))

            for _ in range(ROUNDS):
                await both()
                restart = asyncio.create_task(asyncio.to_thread(redis.kill))
                await both()
                await restart
                restart = asyncio.create_task(asyncio.to_thread(redis.start))
                await both()
                await restart
                await both()
                await one.until_available()
                await other.until_available()
