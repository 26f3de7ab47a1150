"""Measures how late the event loop runs its timers, and finds out whose work has stopped it.

A timer of the loop, the *beat*, is due every BEAT_S. If it comes late, the loop was busy with one
callback, or the process did not run. Meanwhile a thread looks at what the loop is doing, because
nothing can be seen once the callback has ended.

Owns: the beat, the thread, and the times of garbage collections.
Never: logs; the owner of the watch is told of each pause.
Concurrency: one event loop and one thread. The thread only reads, and hands over what it saw in one
    assignment.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import FrameType, TracebackType
from typing import Final, Self

BEAT_S: Final = 0.05
"""The time from one beat to the next. A pause is measured short by this much at most."""
_FRAMES_SHOWN: Final = 4
_UNKNOWN: Final = "an unknown task"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """A time in which the event loop did nothing else.

    Attributes:
        seconds: How late the beat was.
        processor_s: The processor time of the loop's thread since the beat before. If it is much
            shorter than `seconds`, the machine did not let the process run.
        collecting_s: How much of it was garbage collection.
        task: The name of the task that the loop ran, which says whose it is.
        where: The innermost functions, such as `schema.check:112 < answers._check_result:80`; empty
            if the pause had ended before the thread could look.
    """

    seconds: float
    processor_s: float
    collecting_s: float
    task: str
    where: str


@dataclass(frozen=True, slots=True)
class _Seen:
    """What the thread saw while the beat due at `due_at` was late."""

    due_at: float
    task: str
    where: str


class LoopWatch:
    """Watches the running event loop inside its `async with` block."""

    def __init__(self, limit_s: float, on_pause: Callable[[Pause], None]) -> None:
        """`on_pause` is called on the loop, after each pause of more than `limit_s`."""
        self._limit_s = limit_s
        self._on_pause = on_pause
        self._due_at = 0.0
        self._seen: _Seen | None = None
        self._longest_s = 0.0
        self._collecting_s = 0.0
        self._collection_began: float | None = None
        self._processor_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._closed = threading.Event()

    async def __aenter__(self) -> Self:
        """The loop is watched from here to the end of the block."""
        loop = asyncio.get_running_loop()
        self._thread = threading.Thread(
            target=self._look, args=(loop, threading.get_ident()), name="loop-watch", daemon=True
        )
        self._schedule(loop)
        gc.callbacks.append(self._on_collection)
        self._thread.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._closed.set()
        gc.callbacks.remove(self._on_collection)
        if self._timer is not None:
            self._timer.cancel()
        self._thread.join()

    def longest_s(self) -> float:
        """Returns how late a beat was at most since the last call, in seconds."""
        longest_s, self._longest_s = self._longest_s, 0.0
        return longest_s

    # On the loop.

    def _schedule(self, loop: asyncio.AbstractEventLoop) -> None:
        self._processor_at = time.thread_time()
        self._collecting_s = 0.0
        self._due_at = time.monotonic() + BEAT_S
        self._timer = loop.call_later(BEAT_S, self._beat, loop)

    def _beat(self, loop: asyncio.AbstractEventLoop) -> None:
        late_s = time.monotonic() - self._due_at
        self._longest_s = max(self._longest_s, late_s)
        if late_s > self._limit_s:
            seen = self._seen
            if seen is None or seen.due_at != self._due_at:
                seen = _Seen(self._due_at, _UNKNOWN, "")
            self._on_pause(
                Pause(
                    seconds=late_s,
                    processor_s=time.thread_time() - self._processor_at,
                    collecting_s=self._collecting_s,
                    task=seen.task,
                    where=seen.where,
                )
            )
        self._schedule(loop)

    def _on_collection(self, phase: str, _info: Mapping[str, int]) -> None:
        """Called by the collector, in the thread that collects; it stops all others."""
        if phase == "start":
            self._collection_began = time.monotonic()
        elif self._collection_began is not None:
            self._collecting_s += time.monotonic() - self._collection_began
            self._collection_began = None

    # In the thread.

    def _look(self, loop: asyncio.AbstractEventLoop, loop_thread: int) -> None:
        looked_at = 0.0
        while not self._closed.wait(BEAT_S):
            due_at = self._due_at
            if time.monotonic() - due_at <= self._limit_s or due_at == looked_at:
                continue
            looked_at = due_at
            task = asyncio.current_task(loop)
            frames = sys._current_frames()  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
            self._seen = _Seen(
                due_at,
                _UNKNOWN if task is None else task.get_name(),
                _innermost(frames.get(loop_thread)),
            )


def _innermost(frame: FrameType | None) -> str:
    """Returns the innermost functions of a stack, the innermost first."""
    shown: list[str] = []
    while frame is not None and len(shown) < _FRAMES_SHOWN:
        module = str(frame.f_globals.get("__name__", "?")).rpartition(".")[2]
        shown.append(f"{module}.{frame.f_code.co_name}:{frame.f_lineno}")
        frame = frame.f_back
    return " < ".join(shown)
