"""Ends a process with the one that has started it, however that one ends, SIGKILL included.

The kernel does it (PR_SET_PDEATHSIG): it kills a process that computes, holds Python's lock, waits
for a GPU or is stopped, in which no thread of ours would run.

The kernel means the *thread* that has started the process. So that thread has to live as long as
the process is to. `launching` keeps one for vLLM's processes.

Such a process also collects less garbage. While it imports, all stays that it makes, and
collections took a sixth of the ten seconds that vLLM's imports take. When it exits, the kernel
frees all; Python would first look for cycles, for a second or two.

Never: anything but the standard library. Processes read this file before they import anything.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import multiprocessing.spawn
import os
import signal
from collections.abc import Callable
from functools import partial
from typing import Any, Final

_PR_SET_PDEATHSIG: Final = 1
_YOUNG_OBJECTS: Final = 10_000
"""How many new objects begin a collection; Python's own number is 700, or 2,000 from 3.13 on."""


def die_with(parent_pid: int) -> None:
    """From now on this process is killed when the thread ends that has started it.

    `parent_pid` is the process of that thread. If it has ended already, this one ends here.

    Raises:
        OSError: the kernel refuses.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    if os.getppid() != parent_pid:
        os._exit(1)


def first_words() -> str:
    """Returns the Python statements with which a child of this process begins to depend on it."""
    return (
        f"line = {{'__name__': 'line', '__file__': {__file__!r}}}; "
        "exec(open(line['__file__'], encoding='utf-8').read(), line); "
        f"line['begin']({os.getpid()}); "
    )


def begin(parent_pid: int) -> None:
    """As `die_with`, also for what this process starts. It collects less garbage from now on."""
    die_with(parent_pid)
    tie_spawned()
    gc.set_threshold(_YOUNG_OBJECTS)
    atexit.register(gc.freeze)  # the first to be registered is called last


def tie_spawned() -> None:
    """From now on what `multiprocessing` spawns here is killed with its parent, and so on below.

    `multiprocessing` has no hook for that: the command that it spawns is extended. Its resource
    tracker is left alone. It ends by itself when the last of its processes has, and then removes
    the shared memory that they have left. Idempotent.
    """
    command_line: Any = multiprocessing.spawn.get_command_line
    if getattr(command_line, "func", None) is not _extended:
        tied: Any = partial(_extended, command_line)
        multiprocessing.spawn.get_command_line = tied


def _extended(command_line: Callable[..., list[str]], **arguments: Any) -> list[str]:
    """The command without the lifeline has the form: options, "-c", statements, a mark."""
    *before, statements, mark = command_line(**arguments)
    return [*before, first_words() + statements, mark]
