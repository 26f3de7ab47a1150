"""Keeps the garbage collection of a server from stopping its event loop for long."""

from __future__ import annotations

import gc
from typing import Final

from precall_service.app import Service
from precall_service.engine.supervisor import EngineState

THRESHOLDS: Final = (5_000, 5, 20)
"""After how many new objects, young and middle collections the next generation is collected.
Python's own (700, 10, 10) cost twice as much of the time, since most of what a turn makes is gone
by itself soon after."""


def quiet_heap(service: Service) -> None:
    """From now on, keeps the engines' objects out of the collections of this process."""
    gc.set_threshold(*THRESHOLDS)
    service.engines.on_state(HeapFreezer(collects=True))
    if service.draft_engines is not None:
        service.draft_engines.on_state(HeapFreezer(collects=False))


class HeapFreezer:
    """Takes what lives when an engine has started out of the garbage collection.

    That is most of what this process ever holds, some 700,000 objects with vLLM, and a collection
    that looks at all of them stops the event loop for half a second. With `collects` it is done
    once here, when no turn can run on the engine: what an engine that died has left is found by no
    other. Beside an engine on which turns run, as for that of a draft model, it is left out.
    """

    def __init__(self, *, collects: bool) -> None:
        self._collects = collects
        self._last = EngineState.STARTING

    def __call__(self, state: EngineState) -> None:
        """Takes note of the state of the engine."""
        started = state is EngineState.READY and self._last is not EngineState.SILENT
        self._last = state
        if not started:
            return
        if self._collects:
            gc.unfreeze()
            gc.collect()
        gc.freeze()
