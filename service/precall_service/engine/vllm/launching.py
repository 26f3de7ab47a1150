"""Starts the processes of an engine, on its own cores, and ends them if the start is given up.

Owns: which processes belong to which start, since several engines may start at the same time.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import threading
from dataclasses import dataclass
from pathlib import Path

import psutil
from vllm.config import VllmConfig as EngineConfig
from vllm.v1.engine.async_llm import AsyncLLM

from precall_service.engine.vllm.leftovers import starting
from precall_service.engine.vllm.lifeline import tie_spawned
from precall_service.engine.vllm.threads import in_daemon_thread

_SWEEP_S = 0.1
"""How often the processes of a start are listed."""


@dataclass(frozen=True, slots=True)
class Launched:
    """An AsyncLLM with running processes. They are killed when `over` is set, if they still run."""

    llm: AsyncLLM
    over: threading.Event


async def launched(engine_config: EngineConfig, cores: frozenset[int] | None) -> Launched:
    """Returns an AsyncLLM with running processes, which run on these cores.

    The processes are killed by the kernel when this process ends, or the thread that has started
    them (`lifeline`). That thread therefore lives until `Launched.over` is set.

    Processes inherit the cores of the thread that starts them, and vLLM binds its threads to cores
    among those. This process, and other engines of it, keep theirs.

    On failure or cancel: its processes are killed, including those that the thread, which cannot be
    stopped, starts afterwards. Python waits for them when it exits, so one left over would delay
    the exit by a whole start. The processes of other engines are left alone.
    """
    tie_spawned()
    launch, over = _Launch(engine_config, cores), threading.Event()
    try:
        return Launched(await in_daemon_thread(launch.run, until=over), over)
    except BaseException:
        launch.abandon()
        over.set()
        raise


class _Launch:
    """The start of one engine's processes, in a thread of its own."""

    def __init__(self, engine_config: EngineConfig, cores: frozenset[int] | None) -> None:
        self._config = engine_config
        self._cores = cores
        self._abandoned = threading.Event()
        self._over = threading.Event()
        self._processes: set[psutil.Process] = set()

    def run(self) -> AsyncLLM:
        """Returns the AsyncLLM. Lists the processes until then."""
        if self._cores is not None:
            os.sched_setaffinity(0, self._cores)
        sweeper = threading.Thread(
            target=self._sweep,
            args=(threading.get_native_id(),),
            name="precall-engine-sweep",
            daemon=True,
        )
        sweeper.start()
        try:
            with starting():
                return AsyncLLM.from_vllm_config(self._config)
        finally:
            self._over.set()
            sweeper.join()  # which process a thread has started is known only while it lives

    def abandon(self) -> None:
        """Kills the processes, also those that are yet to be started."""
        self._abandoned.set()
        for process in tuple(self._processes):
            _kill(process)

    def _sweep(self, thread_id: int) -> None:
        over = False
        while not over:
            over = self._over.wait(_SWEEP_S)
            self._processes |= _started_by(thread_id)
            if self._abandoned.is_set():
                self.abandon()


def _started_by(thread_id: int) -> set[psutil.Process]:
    """Returns what `multiprocessing` has started in a thread: not its own helpers."""
    children = Path(f"/proc/self/task/{thread_id}/children").read_text(encoding="ascii").split()
    found: set[psutil.Process] = set()
    for process in multiprocessing.active_children():
        if str(process.pid) in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                found.add(psutil.Process(process.pid))
    return found


def _kill(process: psutil.Process) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        for each in (*process.children(recursive=True), process):
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
