"""Bounds the memory that glibc keeps for the threads of this process.

glibc gives each new thread an arena to allocate from, up to eight for each core, and an arena keeps
most of what is freed in it. gRPC starts threads as load comes and ends them as it goes. So each
wave of load left more memory behind than the one before, although no more of it was in use.
"""

from __future__ import annotations

import ctypes
import os
from typing import Final

ARENAS_MAX: Final = 2
"""Enough for threads that mostly wait for Python's lock."""
VARIABLE: Final = "MALLOC_ARENA_MAX"
"""What an operator can set to choose another number. glibc reads it itself."""

_M_ARENA_MAX: Final = -8  # malloc.h


def share_arenas() -> None:
    """Has all threads share ARENAS_MAX arenas.

    It must be called before threads are started: glibc counts its arenas when it makes the second.
    It does nothing if the operator has chosen a number, or if the allocator has no arenas.
    """
    if VARIABLE not in os.environ:
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(_M_ARENA_MAX, ARENAS_MAX)
