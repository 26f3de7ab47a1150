"""The engine's processes: known while they run, gone when the engine is closed."""

from __future__ import annotations

import contextlib
import logging

import psutil
from vllm.v1.engine.async_llm import AsyncLLM

log = logging.getLogger(__name__)

_KILL_TIMEOUT_S = 5.0


class EngineProcesses:
    """The processes below one AsyncLLM, as they stood when it had started.

    Taken then, since the children of a process that was killed can no longer be found through it.
    """

    def __init__(self, llm: AsyncLLM) -> None:
        manager = llm.engine_core.resources.engine_manager
        self._processes: list[psutil.Process] = []
        for process in getattr(manager, "processes", ()):  # Ray's manager has actors instead
            with contextlib.suppress(psutil.NoSuchProcess):
                core = psutil.Process(process.pid)
                self._processes += [core, *core.children(recursive=True)]

    @property
    def pids(self) -> list[int]:
        """Their ids, EngineCore first."""
        return [process.pid for process in self._processes]

    def end(self) -> None:
        """Kills those that are still there. Blocks until they are gone, for seconds at most."""
        alive = [process for process in self._processes if process.is_running()]
        for process in alive:
            log.warning("killing process %d of the engine, which did not end", process.pid)
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(alive, timeout=_KILL_TIMEOUT_S)
