"""No test of the client leaves a task behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest


@pytest.fixture(autouse=True)
async def nothing_left() -> AsyncIterator[None]:
    """Fails a test that leaves an asyncio task running; tasks that are ending get a moment."""
    before: set[asyncio.Task[Any] | None] = {*asyncio.all_tasks()}
    yield
    before.add(asyncio.current_task())
    for _ in range(50):
        if asyncio.all_tasks() <= before:
            return
        await asyncio.sleep(0.01)
    pytest.fail(f"tasks left running: {asyncio.all_tasks() - before}")
