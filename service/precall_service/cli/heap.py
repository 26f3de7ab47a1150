"""Keeps the garbage collection of a server from stopping its event loop for long.

Python's own full collection looks at all that a process holds: some 700,000 objects with vLLM, and
160 for each idle conversation, at half a microsecond each. Nor does it bound the others, for it
counts what was made less what was freed. Here, a collection is due once there are YOUNG_MAX new
objects, and what it leaves is *frozen*: no later one looks at it again. Frozen objects are still
freed when nothing refers to them any more, and that is how turns and conversations end. Garbage
that refers to itself in a circle, if it was frozen before, is found by a *thorough* collection,
which looks at all objects. It is made when an engine has been replaced, when no turn can run, and
at quiet times.

Owns: this process's garbage collection.
Concurrency: one event loop.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import TracebackType
from typing import Final, Self

from precall_service.app import Service
from precall_service.engine.supervisor import EngineState

LOOK_S: Final = 0.05
"""The time between two looks at how many new objects there are."""
YOUNG_MAX: Final = 10_000
"""So many new objects are looked at, which takes some 5 ms."""
COLLECTIONS_MAX: Final = 100
"""After so many collections, the next quiet time is used for a thorough one."""
FROZEN_MAX: Final = 5_000_000
"""If there are so many more frozen objects than after the last thorough collection, the next one
does not wait for a quiet time: it takes seconds, but what they are may be garbage."""


@contextmanager
def quiet_heap(service: Service) -> Generator[None]:
    """Keeps the collections of a service short, inside the running event loop."""
    admission = service.admission
    with QuietHeap(lambda: admission.admitted + admission.waiting) as heap:
        service.engines.on_state(heap.on_state)
        looking = asyncio.create_task(_look(heap), name="garbage collection")
        try:
            yield
        finally:
            looking.cancel()


async def _look(heap: QuietHeap) -> None:
    while True:
        await asyncio.sleep(LOOK_S)
        heap.look()


class QuietHeap:
    """Replaces Python's automatic collections inside its `with` block.

    `turns` returns how many turns run or wait.
    """

    def __init__(self, turns: Callable[[], int]) -> None:
        self._turns = turns
        self._collections = 0
        """Collections since the last thorough one."""
        self._frozen = 0
        """The objects that the last thorough one has left, or that there were at the start."""
        self._added = 0
        """At most so many more are frozen now."""
        self._state: EngineState | None = None
        """That of the engine, once it is known."""

    def __enter__(self) -> Self:
        gc.disable()
        self._freeze()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        gc.enable()
        gc.unfreeze()

    def on_state(self, state: EngineState) -> None:
        """Makes a thorough collection when an engine has taken the place of one that died."""
        before, self._state = self._state, state
        if state is EngineState.READY and before not in (None, EngineState.SILENT):
            self._collect_thoroughly()

    def look(self) -> None:
        """Makes a collection if one is due."""
        young = len(gc.get_objects(generation=0))
        if young >= YOUNG_MAX:
            gc.collect()
            gc.freeze()
            self._collections += 1
            self._added += young
            if self._added > FROZEN_MAX:
                self._collect_if_swollen()
        elif self._collections >= COLLECTIONS_MAX and not self._turns():
            self._collect_thoroughly()

    def _collect_if_swollen(self) -> None:
        self._added = gc.get_freeze_count() - self._frozen  # it counts them one by one
        if self._added > FROZEN_MAX:
            self._collect_thoroughly()

    def _collect_thoroughly(self) -> None:
        gc.unfreeze()
        gc.collect()
        self._freeze()

    def _freeze(self) -> None:
        """Freezes all there is, and begins to count anew."""
        gc.freeze()
        self._frozen = gc.get_freeze_count()
        self._added = self._collections = 0
