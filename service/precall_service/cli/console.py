"""Where a command writes to: answers on stdout, everything about itself on stderr."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from rich.console import Console

LogLevel = Literal["debug", "info", "warning", "error"]

_OURS = ("precall", "precall_service")
_PLAIN = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def stdout() -> Console:
    """The console for what was asked for."""
    return Console(highlight=False, soft_wrap=True)


def stderr() -> Console:
    """The console for progress, notices and warnings."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


@contextmanager
def stderr_alone() -> Generator[Console]:
    """The console on stderr, which nobody else can write to while the block runs.

    Libraries in C++ and the engine's processes write there without asking, past every logger.
    Processes that are started in the block stay silent after it.
    """
    sys.stderr.flush()
    ours = os.dup(2)
    try:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        with os.fdopen(ours, "w", closefd=False) as stream:
            yield Console(file=stream, highlight=False, soft_wrap=True)
    finally:
        sys.stderr.flush()
        os.dup2(ours, 2)
        os.close(ours)


def configure_logging(level: LogLevel) -> None:
    """Shows our own records from `level` on, and those of libraries from WARNING on."""
    console = stderr()
    handler: logging.Handler
    if console.is_terminal:
        from rich.logging import RichHandler

        handler = RichHandler(console=console, show_path=False, log_time_format="%H:%M:%S")
        handler.setFormatter(logging.Formatter("%(message)s"))
    else:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter(_PLAIN))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("vllm").setLevel(max(logging.WARNING, getattr(logging, level.upper())))
    for name in _OURS:
        logging.getLogger(name).setLevel(level.upper())
