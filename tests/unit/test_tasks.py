"""Tasks that clients can have cancelled."""

from __future__ import annotations

import asyncio
import gc
import weakref

import pytest

from precall_service.tasks import traceless


class Held:
    """Something that the work of a task holds."""


async def test_it_returns_and_raises_what_the_work_does() -> None:
    async def answer() -> int:
        return 42

    async def fail() -> None:
        raise ValueError("no")

    assert await traceless(answer) == 42
    with pytest.raises(ValueError, match="no"):
        await traceless(fail)


async def test_what_cancelled_work_held_is_freed_without_a_collection() -> None:
    begun = asyncio.Event()
    left: list[weakref.ref[Held]] = []

    async def work() -> None:
        held = Held()
        left.append(weakref.ref(held))
        async with asyncio.TaskGroup():
            begun.set()
            await asyncio.Event().wait()

    gc.disable()
    try:
        task = asyncio.create_task(traceless(work))
        await begun.wait()
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        assert left[0]() is None
    finally:
        gc.enable()


async def test_work_that_is_cancelled_before_it_begins_does_not_begin() -> None:
    async def work() -> None:
        raise AssertionError

    task = asyncio.create_task(traceless(work))
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
