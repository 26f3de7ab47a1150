"""The watch on the event loop, against pauses that are made on purpose."""

from __future__ import annotations

import asyncio
import gc
import threading
import time

from precall_service.watch.loop_watch import BEAT_S, LoopWatch, Pause

LIMIT_S = 0.02
PAUSE_S = LIMIT_S + 3 * BEAT_S


def compute(seconds: float) -> None:
    """Keeps the processor busy."""
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass


async def first_pause(pauses: asyncio.Queue[Pause]) -> Pause:
    async with asyncio.timeout(30):
        return await pauses.get()


async def test_a_pause_is_told_with_the_task_and_the_place_that_caused_it() -> None:
    pauses: asyncio.Queue[Pause] = asyncio.Queue()
    async with LoopWatch(LIMIT_S, pauses.put_nowait) as watch:

        async def work() -> None:
            compute(PAUSE_S)

        await asyncio.create_task(work(), name="reader of conv-1 (tenant ann)")
        pause = await first_pause(pauses)
        assert watch.longest_s() >= pause.seconds > LIMIT_S
        assert watch.longest_s() < pause.seconds
    assert pause.task == "reader of conv-1 (tenant ann)"
    assert "test_loop_watch.compute:" in pause.where
    assert pause.processor_s > LIMIT_S


async def test_a_pause_without_work_has_no_processor_time() -> None:
    pauses: asyncio.Queue[Pause] = asyncio.Queue()
    async with LoopWatch(LIMIT_S, pauses.put_nowait):
        time.sleep(PAUSE_S)  # noqa: ASYNC251 - as if the machine did not let the process run
        pause = await first_pause(pauses)
    assert pause.processor_s < pause.seconds / 2


async def test_a_pause_names_the_time_of_garbage_collection() -> None:
    pauses: asyncio.Queue[Pause] = asyncio.Queue()
    held = [[number] for number in range(500_000)]
    async with LoopWatch(LIMIT_S, pauses.put_nowait):
        began = time.monotonic()
        while time.monotonic() - began < PAUSE_S:
            gc.collect()
        pause = await first_pause(pauses)
    assert held
    assert pause.collecting_s > LIMIT_S


async def test_nothing_is_left_after_the_block() -> None:
    threads, callbacks = threading.active_count(), list(gc.callbacks)
    async with LoopWatch(LIMIT_S, lambda _: None):
        assert threading.active_count() == threads + 1
    assert threading.active_count() == threads
    assert gc.callbacks == callbacks
