"""The engine's processes: their ids, their end, and how they came to it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from typing import Any, Final, cast

import psutil

from precall_service.engine.vllm.launching import Launched
from precall_service.engine.vllm.leftovers import remove_leftovers, shared_memory_of

log = logging.getLogger(__name__)

_KILL_TIMEOUT_S: Final = 5.0
_EXIT_TIMEOUT_S: Final = 5.0
"""How long a process that says that it died may take to exit."""


class EngineProcesses:
    """The processes of one AsyncLLM, listed when it had started.

    They are listed then because the children of a killed process can no longer be found through
    it.
    """

    def __init__(self, launched: Launched) -> None:
        llm = self._llm = launched.llm
        self._over = launched.over
        self._processes: list[psutil.Process] = []
        manager = llm.engine_core.resources.engine_manager
        self._cores: Sequence[BaseProcess] = tuple(
            getattr(manager, "processes", ())  # Ray's manager has actors instead
        )
        for process in self._cores:
            with contextlib.suppress(psutil.NoSuchProcess):
                core = psutil.Process(process.pid)
                self._processes += [core, *core.children(recursive=True)]
        self._shared_memory = shared_memory_of(self.pids)

    @property
    def pids(self) -> list[int]:
        """Their ids, beginning with EngineCore's."""
        return [process.pid for process in self._processes]

    @property
    def output_handler(self) -> asyncio.Task[None] | None:
        """AsyncLLM's task that runs as long as they do; None before the first generation."""
        return cast("Any", self._llm).output_handler

    async def how_they_ended(self) -> str:
        """How the EngineCore processes of an engine that died ended; waits a bounded time."""
        if not self._cores:
            return "it runs on other machines, whose logs say how it ended"
        await asyncio.to_thread(self._join)
        ended = [process.exitcode for process in self._cores if process.exitcode is not None]
        if not ended:
            return "its process still runs"
        return described_exit(min(ended))  # a kill first: the others end because of it

    async def kill(self) -> None:
        """Kills the processes, also those that are stopped. vLLM then notices their death."""
        await asyncio.to_thread(self._kill)

    async def close(self, timeout_s: float) -> None:
        """Asks the processes to end, and kills them after `timeout_s`. Idempotent."""
        try:
            if self.output_handler is not None:
                self.output_handler.cancel()  # or it would report the requested end as an error
            await asyncio.to_thread(self._llm.shutdown, timeout_s)
            await asyncio.to_thread(self._kill)
            await asyncio.sleep(0)  # vLLM closes its sockets in a callback
            # vLLM leaves this open.
            cast("Any", self._llm.engine_core).resources.ctx.destroy(linger=0)
            await asyncio.to_thread(remove_leftovers, self._shared_memory)
        finally:
            self._over.set()

    def _join(self) -> None:
        for process in self._cores:
            process.join(_EXIT_TIMEOUT_S)
            if process.is_alive():  # one that does not answer must not be waited for again
                return

    def _kill(self) -> None:
        alive = [process for process in self._processes if process.is_running()]
        for process in alive:
            log.warning("killing process %d of the engine, which did not end", process.pid)
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(alive, timeout=_KILL_TIMEOUT_S)


def described_exit(exit_code: int) -> str:
    """How a process ended; a negative `exit_code` is the signal that killed it."""
    if exit_code == 0:
        return "exit status 0, as after SIGTERM"
    if exit_code > 0:
        return (
            f"exit status {exit_code}; vLLM's log above says why. A worker with exit code -9 there "
            "was killed, often by the kernel's out-of-memory killer"
        )
    number = -exit_code
    try:
        name = f" ({signal.Signals(number).name})"
    except ValueError:  # a real-time signal has no name
        name = ""
    hint = ", often by the kernel's out-of-memory killer" if number == signal.SIGKILL else ""
    return f"killed by signal {number}{name}{hint}"
