"""Reads what this machine has: memory, and NVIDIA GPUs.

Never: changes anything, or raises where something cannot be read.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Final

_MIB: Final = 1 << 20
_NVIDIA_SMI_TIMEOUT_S: Final = 20.0


def memory_bytes() -> int:
    """Returns the memory available to this process, within the limit of its container."""
    fields = dict(line.split(":", 1) for line in read("/proc/meminfo").splitlines())
    available = int(fields["MemAvailable"].split()[0]) << 10
    limit, used = read("/sys/fs/cgroup/memory.max"), read("/sys/fs/cgroup/memory.current")
    if limit.strip().isdigit() and used.strip().isdigit():
        available = min(available, int(limit) - int(used))
    return available


def gpu_memory_bytes() -> tuple[int, int] | None:
    """Returns the total and the free memory of the first GPU; None if no driver answers."""
    rows = gpu_rows("memory.total,memory.free", units=False)
    if not rows or len(rows[0]) != 2 or not all(each.isdigit() for each in rows[0]):
        return None
    total, free = rows[0]
    return int(total) * _MIB, int(free) * _MIB


def gpu_rows(query: str, *, units: bool = True) -> list[list[str]]:
    """Returns what the driver says of each GPU; nothing if none answers."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    form = "csv,noheader" if units else "csv,noheader,nounits"
    try:
        answer = subprocess.run(  # noqa: S603 - the driver's own tool, with fixed arguments
            [program, f"--query-gpu={query}", f"--format={form}"],
            check=True,
            capture_output=True,
            text=True,
            timeout=_NVIDIA_SMI_TIMEOUT_S,
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.split(", ") for line in answer.stdout.splitlines()]


def read(path: str) -> str:
    """Returns the text of a file; an empty one if it cannot be read."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
