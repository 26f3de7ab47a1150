"""Threads share a few arenas of glibc."""

from __future__ import annotations

import os
import subprocess
import sys
from textwrap import dedent

import pytest

from precall_service.cli.arenas import ARENAS_MAX, VARIABLE

THREADS = 6
PROGRAM = f"""
    import ctypes
    import threading

    from precall_service.cli.arenas import share_arenas

    {{first}}
    together = threading.Barrier({THREADS})

    def allocate():
        together.wait()
        kept = [bytes(5000) for _ in range(100)]
        together.wait()

    threads = [threading.Thread(target=allocate) for _ in range({THREADS})]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    libc = ctypes.CDLL(None)
    libc.fopen.restype = ctypes.c_void_p
    output = ctypes.c_void_p(libc.fopen(b"/dev/stdout", b"w"))
    libc.malloc_info(0, output)
    libc.fflush(output)
"""


@pytest.mark.parametrize(
    ("first", "chosen", "arenas"),
    [
        ("share_arenas()", None, ARENAS_MAX),
        ("share_arenas()", "3", 3),
        ("", None, THREADS + 1),
    ],
    ids=["shared", "the operator's number", "glibc's number"],
)
def test_threads_share_arenas(first: str, chosen: str | None, arenas: int) -> None:
    """In a process of its own, since the number cannot be changed later."""
    environ = {name: value for name, value in os.environ.items() if name != VARIABLE}
    if chosen is not None:
        environ[VARIABLE] = chosen
    run = subprocess.run(
        [sys.executable, "-c", dedent(PROGRAM).format(first=first)],
        env=environ,
        capture_output=True,
        text=True,
        timeout=50,
        check=True,
    )
    assert run.stdout.count("<heap nr=") == arenas
