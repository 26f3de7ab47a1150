"""What an engine leaves behind when it ends, and its removal.

A killed process leaves its sockets, its files and its shared memory, and vLLM leaves some of them
in any case. They are removed when an engine has ended: an engine that dies often would otherwise
fill the disk and the memory of the machine.

Concurrency: any thread. Engines of one process may start and end at the same time.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Generator, Iterable
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any, Final, cast

from vllm.utils import func_utils

from precall_service.engine.vllm.environment import temporary_folder

_SHARED_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - the kernel's own
_SHARED_NAMES: Final = "psm_"
"""How Python begins the names of shared memory."""
_BOUND_SOCKETS: Final = Path("/proc/net/unix")
_MEETING_POINTS: Final = "vllm_dist_*"
"""Files by which the processes of an engine find each other while it starts."""


class _Starts:
    """How many engines start now."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.number = 0


_starts = _Starts()


@contextlib.contextmanager
def starting() -> Generator[None]:
    """In the block, no file is removed by which the processes of a start find each other."""
    with _starts.lock:
        _starts.number += 1
    try:
        yield
    finally:
        with _starts.lock:
            _starts.number -= 1


def shared_memory_of(pids: Iterable[int]) -> frozenset[str]:
    """Returns the names of the shared memory that these processes have mapped."""
    found: set[str] = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/maps").read_text("utf-8").splitlines():
                path = Path(line.rpartition(" ")[2])
                if path.parent == _SHARED_MEMORY and path.name.startswith(_SHARED_NAMES):
                    found.add(path.name)
    return frozenset(found)


def remove_leftovers(shared_memory: Iterable[str]) -> None:
    """Removes what an engine that has ended has left, in this process, too.

    `shared_memory` are the names of its own. Sockets are removed if no living process is bound to
    them.
    """
    for name in shared_memory:
        with contextlib.suppress(FileNotFoundError):
            (_SHARED_MEMORY / name).unlink()
            # Or multiprocessing would look for it when this process ends, and complain.
            resource_tracker.unregister(f"/{name}", "shared_memory")
    folder = temporary_folder()
    bound = _BOUND_SOCKETS.read_text("utf-8", errors="replace")
    for each in folder.iterdir():
        if each.is_socket() and str(each) not in bound:
            each.unlink(missing_ok=True)
    with _starts.lock:
        for each in () if _starts.number else folder.glob(_MEETING_POINTS):
            each.unlink(missing_ok=True)
    # VLLM keeps functions of each tokenizer here, and through them the tokenizer: 35 MiB for one
    # of 49,000 tokens.
    cast("Any", func_utils)._supports_kw.cache_clear()  # noqa: SLF001
