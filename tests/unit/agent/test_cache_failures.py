"""Whatever the cache and its store do, no turn fails for it, and nothing wrong is passed on."""

from __future__ import annotations

import asyncio
import dataclasses
import struct
from typing import Any

import pytest

from precall_service.domain.events import Invoke, ToolCallCompleted, ToolCallOutcome, TurnOutcome
from precall_service.tools.link import HandlerResult
from tests.support.agent import agent
from tests.support.cached import (
    JOINED,
    RAN,
    READ,
    WRITE,
    Handler,
    completed,
    read,
    together,
    turns,
    write,
)
from tests.support.clock import settle


async def test_a_defect_of_the_store_is_a_miss(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(*_: object) -> None:
        raise struct.error("an entry that cannot be read")

    async with agent(*turns(read())) as there:
        monkeypatch.setattr(there.store, "look_up", broken)
        client = there.open(READ, handler=Handler())
        ending = await client.ask()
        assert ending.outcome is TurnOutcome.ANSWERED
        assert completed(client) == [(RAN, "1")]
    assert "a look-up in the tool cache" in caplog.text


async def test_a_turn_that_is_cancelled_while_its_write_is_announced_ends_the_write(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with agent(*turns(write())[:1]) as there:
        await there.cache.resource_versions("ann", [])
        announced: list[str] = []
        settled: list[str] = []
        gate, advance = asyncio.Event(), there.store.advance

        async def announce(_tenant: str, write_id: str, *_: object) -> None:
            announced.append(write_id)
            await gate.wait()

        async def note(*args: Any, settles: str = "") -> int:
            settled.append(settles)
            return await advance(*args, settles=settles)

        monkeypatch.setattr(there.store, "announce", announce)
        monkeypatch.setattr(there.store, "advance", note)
        client = there.open(WRITE)
        await client.send()
        client.conversation.cancel_turn("")
        await settle()
        assert not client.of(Invoke)
        assert settled == announced != []


async def test_a_shared_result_must_be_one_of_the_tool_that_shares_it() -> None:
    """Two clients declare the same version of a tool with different output schemas."""
    strict = dataclasses.replace(READ, output_schema_json='{"type": "integer"}')
    async with agent(*together(read(), read())) as there:
        loose, other = there.open(READ), there.open(strict)
        await loose.send()
        await other.send()
        await loose.deliver(HandlerResult('"no integer"'))
        assert completed(loose) == [(RAN, '"no integer"')]
        await other.answer(0, "7")
        assert completed(other) == [(RAN, "7")]


async def test_a_call_does_not_share_the_wait_for_a_slot_of_another_process() -> None:
    one_at_a_time = dataclasses.replace(READ, max_concurrency=1, timeout_s=20.0)
    handler = Handler()
    async with agent(*together([read("/x"), read("/y")], read("/y"))) as there:
        busy = there.open(one_at_a_time)
        idle = there.open(one_at_a_time, handler=handler)
        await busy.send()
        await idle.send()
        assert not handler.invocations, "its call shares the run that waits in the busy process"
        await there.advance(20)
        outcomes = {each.outcome for each in busy.of(ToolCallCompleted)}
        assert outcomes == {ToolCallOutcome.TIMEOUT}
        assert completed(idle) == [(RAN, "1")]


async def test_an_ending_of_the_handler_is_shared_even_if_it_is_a_timeout() -> None:
    async with agent(*together(read(), read())) as there:
        one, other = there.open(READ), there.open(READ)
        await one.send()
        await other.send()
        await there.advance(20)
        for client in (one, other):
            [ended] = client.of(ToolCallCompleted)
            assert ended.outcome is ToolCallOutcome.TIMEOUT
        assert not other.of(Invoke)
        stats = await there.cache.stats("ann")
        assert (stats.joined, stats.misses, stats.entries) == (1, 2, 0)


async def test_calls_are_counted_once() -> None:
    async with agent(*together(read(), read()), *turns(read())) as there:
        one, other = there.open(READ), there.open(READ)
        await one.send()
        await other.send()
        await one.answer(0)
        assert completed(other) == [(JOINED, "1")]
        await one.ask()
        stats = await there.cache.stats("ann")
        assert (stats.hits, stats.misses, stats.joined) == (1, 2, 1)
