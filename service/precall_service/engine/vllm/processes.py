"""The engine's processes: known while they run, gone when the engine is closed."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any, cast

import psutil
from vllm.v1.engine.async_llm import AsyncLLM

log = logging.getLogger(__name__)

_KILL_TIMEOUT_S = 5.0


class EngineProcesses:
    """The processes below one AsyncLLM, as they stood when it had started.

    Taken then, since the children of a process that was killed can no longer be found through it.
    """

    def __init__(self, llm: AsyncLLM) -> None:
        self._llm = llm
        self._processes: list[psutil.Process] = []
        manager = llm.engine_core.resources.engine_manager
        for process in getattr(manager, "processes", ()):  # Ray's manager has actors instead
            with contextlib.suppress(psutil.NoSuchProcess):
                core = psutil.Process(process.pid)
                self._processes += [core, *core.children(recursive=True)]

    @property
    def pids(self) -> list[int]:
        """Their ids, EngineCore first."""
        return [process.pid for process in self._processes]

    @property
    def output_handler(self) -> asyncio.Task[None] | None:
        """AsyncLLM's task that lives as long as they do; None before the first generation."""
        return cast("Any", self._llm).output_handler

    async def close(self, timeout_s: float) -> None:
        """Ends them: asked to, and killed after `timeout_s`. Idempotent."""
        if self.output_handler is not None:
            self.output_handler.cancel()  # or it reports the end that is asked for as an error
        await asyncio.to_thread(self._llm.shutdown, timeout_s)
        await asyncio.to_thread(self._kill)
        await asyncio.sleep(0)  # its sockets are closed in a callback
        cast("Any", self._llm.engine_core).resources.ctx.destroy(linger=0)  # vLLM leaves it open

    def _kill(self) -> None:
        alive = [process for process in self._processes if process.is_running()]
        for process in alive:
            log.warning("killing process %d of the engine, which did not end", process.pid)
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(alive, timeout=_KILL_TIMEOUT_S)
