"""Tools that are updated while their calls wait: the updated declaration counts."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

import pytest

from precall_service.domain.events import Invoke, ToolCallCompleted
from precall_service.domain.tools import ToolEffects
from precall_service.tools.declarations import ToolProposal
from precall_service.tools.failures import SEND_TIMEOUT_S
from precall_service.tools.link import HandlerResult
from tests.support.agent import Client, agent
from tests.support.cached import READ, WRITE, Handler, completed, read, turns, write
from tests.support.clock import settle

ONE_READ = dataclasses.replace(READ, max_concurrency=1)
ONE_WRITE = dataclasses.replace(WRITE, version="1", max_concurrency=1)


async def answer_all(client: Client) -> None:
    """Answers the invocations with their numbers until none is open."""
    answered: set[str] = set()
    while waiting := [each for each in client.of(Invoke) if each.invocation_id not in answered]:
        for invocation in waiting:
            answered.add(invocation.invocation_id)
            index = [*client.of(Invoke)].index(invocation)
            await client.deliver(HandlerResult(str(index + 1)), index)


async def update(client: Client, tool: ToolProposal) -> None:
    await client.conversation.register_tools(1, [tool])


async def test_a_result_of_a_newer_version_is_not_stored_for_the_older_one() -> None:
    handler = Handler()
    async with agent(*turns([read("/x"), read("/y")], read("/y"))) as there:
        client = there.open(ONE_READ)
        other = there.open(ONE_READ, handler=handler)
        await client.send()
        assert len(client.of(Invoke)) == 1, "the second call waits for the slot"
        await update(client, dataclasses.replace(ONE_READ, version="2"))
        await answer_all(client)
        assert client.of(Invoke)[1].tool_version == "2"
        await other.ask()
        assert handler.names == ["read"], "a result of version 2 was served for version 1"


async def test_a_write_by_a_newer_version_makes_stale_what_that_version_writes() -> None:
    handler = Handler()
    steps = turns(read("/z"), [write("/x"), write("/y")], read("/z"))
    async with agent(*steps) as there:
        reader = there.open(READ, handler=handler)
        writer = there.open(ONE_WRITE)
        await reader.ask()
        await writer.send()
        everything = dataclasses.replace(
            ONE_WRITE, version="2", effects=ToolEffects(writes=("file:*",))
        )
        await update(writer, everything)
        await answer_all(writer)
        ran = {each.tool_version for each in writer.of(Invoke)}
        assert len(writer.of(ToolCallCompleted)) == 2
        await reader.ask()
        if "2" in ran:
            assert completed(reader)[1][1] == "2", "a value from before the write was served"


async def test_a_tool_that_no_longer_only_reads_makes_stale_what_it_writes() -> None:
    handler = Handler()
    peek = dataclasses.replace(
        ONE_WRITE, name="peek", effects=ToolEffects(read_only=True, reads=("file:{path}",))
    )
    both = [("peek", '{"path": "/x"}'), ("peek", '{"path": "/y"}')]
    async with agent(*turns(read("/y"), both, read("/y"))) as there:
        reader = there.open(READ, handler=handler)
        writer = there.open(peek)
        await reader.ask()
        await writer.send()
        await update(
            writer,
            dataclasses.replace(peek, version="2", effects=ToolEffects(writes=("file:{path}",))),
        )
        await answer_all(writer)
        ran = {each.tool_version for each in writer.of(Invoke)}
        await reader.ask()
        if "2" in ran:
            assert completed(reader)[1][1] == "2", "a value from before the write was served"


async def test_what_an_update_writes_is_recorded_although_the_turn_is_cancelled_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    handler = Handler()
    steps = turns(read("/z"), [write("/x"), write("/y")], read("/z"))
    del steps[3]  # the cancelled turn has no answer
    async with agent(*steps) as there:
        reader = there.open(READ, handler=handler)
        writer = there.open(ONE_WRITE)
        await reader.ask()
        await writer.send()
        everything = dataclasses.replace(
            ONE_WRITE, version="2", effects=ToolEffects(writes=("file:*",))
        )
        await update(writer, everything)
        await writer.answer(0)
        assert writer.of(Invoke)[1].tool_version == "2"

        slow, advance = asyncio.Event(), there.store.advance

        async def advance_slowly(*args: Any, **settles: Any) -> int:
            await slow.wait()
            return await advance(*args, **settles)

        monkeypatch.setattr(there.store, "advance", advance_slowly)
        await writer.answer(1)
        writer.conversation.cancel_turn("")
        await settle()
        slow.set()
        await settle()
        await reader.ask()
        assert completed(reader)[1][1] == "2", "a value from before the write was served"


async def test_a_write_is_announced_for_as_long_as_its_run_may_take(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    announced: list[float] = []
    async with agent(*turns(write("/x"))) as there:
        announce = there.store.announce

        async def note(*args: Any) -> None:
            announced.append(args[-1])
            await announce(*args)

        monkeypatch.setattr(there.store, "announce", note)
        await there.cache.resource_versions("ann", [])  # else nothing could become stale
        writer = there.open(dataclasses.replace(WRITE, timeout_s=60.0), handler=Handler())
        await writer.ask()
        assert announced[0] >= 60.0 + SEND_TIMEOUT_S + 60.0
