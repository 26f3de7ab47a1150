"""Synchronous handlers: their threads, and the cancellation that cannot reach them there."""

from __future__ import annotations

import asyncio
import contextlib
import threading

from precall import Client, ClientOptions, Tool, ToolCallOutcome, ToolContext
from precall._context import RunLink
from precall._pool import HandlerPool
from precall._results import ResultWriter
from precall.testing import Call, FakeServer, Parallel, Say
from tests.clients.helpers import FAST

WRITER = ResultWriter(0, lambda: False)


async def test_hanging_handlers_do_not_use_the_threads_of_the_event_loop() -> None:
    release = threading.Event()

    def hangs() -> None:
        release.wait(10)

    script = [Parallel([Call("hangs")] * 40), Say("x")]
    async with FakeServer(script) as server, Client(server.address, options=FAST) as client:
        client.add_tool(hangs, timeout_s=0.2, max_concurrency=40)
        async with client.conversation() as conversation:
            await conversation.ask("go")
            assert await asyncio.wait_for(asyncio.to_thread(len, "abc"), 5) == 3
            release.set()


async def test_a_thread_keeps_its_slot_until_it_returns() -> None:
    release = threading.Event()
    seen: list[ToolContext] = []

    def blocks(context: ToolContext) -> str:
        seen.append(context)
        release.wait(10)
        return "late"

    script = [Call("blocks"), Call("blocks"), Say("x")]
    async with FakeServer(script) as server, Client(server.address, options=FAST) as client:
        client.add_tool(blocks, timeout_s=0.2, max_concurrency=1)
        async with client.conversation() as conversation:
            answer = await conversation.ask("go")
            assert [call.outcome for call in answer.tool_calls] == [ToolCallOutcome.TIMEOUT] * 2
            assert len(seen) == 1  # the second call never had a thread
            assert seen[0].cancelled
            release.set()
            await asyncio.sleep(0.05)


async def test_a_function_that_is_cancelled_before_it_has_a_thread_never_runs() -> None:
    pool = HandlerPool(ClientOptions(threads_max=1))
    started, release = threading.Event(), threading.Event()
    ran: list[str] = []

    def blocks() -> None:
        started.set()
        release.wait(10)

    def runs(name: str) -> None:
        ran.append(name)

    tool = Tool.from_function(runs, max_concurrency=1)
    blocking = asyncio.ensure_future(pool.run(Tool.from_function(blocks), {}, WRITER))
    await asyncio.to_thread(started.wait, 5)
    queued = asyncio.ensure_future(pool.run(tool, {"name": "unwanted"}, WRITER))
    await asyncio.sleep(0)
    queued.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await queued
    release.set()
    await blocking
    await asyncio.wait_for(
        pool.run(tool, {"name": "next"}, WRITER), 5
    )  # in the slot that was released
    assert ran == ["next"]
    pool.close()


async def test_progress_that_comes_too_fast_is_replaced_by_the_latest() -> None:
    said: list[str] = []
    room = asyncio.Event()
    told = asyncio.Semaphore(0)

    async def send_progress(message: str, fraction: float | None) -> None:
        await room.wait()
        said.append(message)
        told.release()

    context = ToolContext(_link=RunLink(send_progress))

    def works() -> None:
        for percent in range(100):
            context.progress_from_thread(f"{percent} %")

    await asyncio.to_thread(works)
    await asyncio.to_thread(works)
    room.set()
    while not said or said[-1] != "99 %":
        await asyncio.wait_for(told.acquire(), 5)
    assert len(said) <= 2
