"""Answers frames that register tools, in their order, while the client's next frames are read.

Owns: the frames that have no answer yet.
Concurrency: one task answers, one caller adds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeAlias

from precall_service.tasks import traceless
from precall_service.tools.toolset import Registration

UNANSWERED_MAX: Final = 4
"""Frames that have no answer yet; if there are more, the client's frames wait."""

Answer: TypeAlias = Callable[[int, Sequence[Registration]], Awaitable[None]]
"""Answers a frame, by its number, once the engine has judged its tools."""


class RegistrationAnswers:
    """Answers in a task of a conversation's group, until `close`."""

    def __init__(self, tasks: asyncio.TaskGroup, answer: Answer) -> None:
        self._frames: asyncio.Queue[tuple[int, Sequence[Registration]]]
        self._frames = asyncio.Queue(UNANSWERED_MAX)
        self._answer = answer
        self._task = tasks.create_task(traceless(self._run))

    async def add(self, frame: int, registrations: Sequence[Registration]) -> None:
        """Has a frame answered. Waits while too many have no answer yet."""
        await self._frames.put((frame, registrations))

    async def join(self) -> None:
        """Returns once all frames have their answers."""
        await self._frames.join()

    def close(self) -> None:
        """Answers no more."""
        self._task.cancel()

    async def _run(self) -> None:
        while True:
            await self._answer(*await self._frames.get())
            self._frames.task_done()
