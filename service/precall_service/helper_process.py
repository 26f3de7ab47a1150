"""What the processes have in common that do costly work of clients, and are given up if need be.

Each of them forks for a piece of work, and the kernel ends the fork when it reaches a bound.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # a helper process has no event loop
    import asyncio


async def end(process: asyncio.subprocess.Process) -> None:
    """Kills a process that leads a session of its own, with its forks."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()


def bound_fork(memory_bytes: int) -> None:
    """Allows this fork so much memory more than it has, and lets it leave nothing behind.

    Libraries warn of what clients write, so stderr leads nowhere from now on.
    """
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[0])
    limit = pages * resource.getpagesize() + memory_bytes
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
