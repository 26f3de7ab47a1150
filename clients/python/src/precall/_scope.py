"""Tasks that end with their owner, in a bounded time.

`asyncio.TaskGroup` waits for its tasks for ever, and cancels its parent when one fails. A library
that runs its users' functions can afford neither.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

logger = logging.getLogger("precall")

T = TypeVar("T")


def being_cancelled() -> bool:
    """Returns whether the current task itself is being cancelled, not only what it awaits."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


class TaskScope:
    """Starts tasks, and cancels those that still run when it closes.

    Concurrency: used from one event loop.
    """

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def start(
        self,
        coroutine: Coroutine[Any, Any, T],
        *,
        name: str,
        context: contextvars.Context | None = None,
    ) -> asyncio.Task[T]:
        """Starts a task that the scope cancels when it closes."""
        task = asyncio.get_running_loop().create_task(coroutine, name=name, context=context)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def close(self, timeout_s: float) -> None:
        """Cancels the tasks that still run and waits for them, at most `timeout_s`.

        A task that ignores its cancellation for longer is logged and left running.
        """
        left = self._tasks - {asyncio.current_task()}
        for task in left:
            task.cancel()
        if not left:
            return
        done, stuck = await asyncio.wait(left, timeout=timeout_s)
        for task in done:
            if not task.cancelled() and (error := task.exception()) is not None:
                logger.error("%s failed: %r", task.get_name(), error)
        for task in stuck:
            logger.warning("%s ignores its cancellation", task.get_name())
