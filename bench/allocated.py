"""What this process has allocated, whatever of it is resident.

Resident memory says little about leaks: allocators keep much of what was in use at a peak.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import sys
from typing import Any, Final

EXACT: Final = {"GLIBC_TUNABLES": "glibc.malloc.tcache_count=0"}
"""The environment in which malloc counts exactly. Without it, what a thread has freed and keeps for
itself counts as allocated."""
INTERNED: Final = 200_000
"""More strings than a process like ours interns."""
TASKS: Final = 60_000
"""More tasks than a test has at once."""


class _Malloc(ctypes.Structure):
    """The struct mallinfo2 of glibc."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    )


def allocated() -> dict[str, int]:
    """Returns the number of Python's objects, and the bytes that malloc gave out, in all arenas."""
    gc.collect()
    mallinfo: Any = ctypes.CDLL(None).mallinfo2  # glibc 2.33 and later
    mallinfo.restype = _Malloc
    found = mallinfo()
    return {
        "objects of Python": sys.getallocatedblocks(),
        "bytes of malloc": int(found.uordblks) + int(found.hblkhd),
    }


async def grow_tables() -> None:
    """Has Python's tables of interned strings and of tasks grow to what they reach at some peak.

    They double by a megabyte here, and stay so. Strings that are gone also fill the first.
    """
    for number in range(INTERNED):
        sys.intern(f"interned {number}")
    await asyncio.wait([asyncio.create_task(asyncio.sleep(0)) for _ in range(TASKS)])
