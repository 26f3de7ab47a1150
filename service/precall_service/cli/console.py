"""Where a command writes: results to stdout, everything else to stderr."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

LogLevel = Literal["debug", "info", "warning", "error"]

_OURS = ("precall", "precall_service")
_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class _BriefFormatter(logging.Formatter):
    """Leaves out the traceback of an exception, which only `--log-level debug` shows."""

    def formatException(self, ei: Any) -> str:  # noqa: N802 - the name is logging's
        """As `logging.Formatter.formatException`."""
        return f"{ei[0].__name__}: {ei[1]}" if ei[0] is not None else ""


def stdout() -> Console:
    """Returns the console for results."""
    return Console(highlight=False, soft_wrap=True)


def stderr() -> Console:
    """Returns the console for progress, notices and warnings."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


@contextmanager
def stderr_alone() -> Generator[Console]:
    """Yields a console on stderr, and drops what anything else writes there during the block.

    C++ libraries and the engine's processes write to stderr directly, past every logger. Processes
    started in the block stay silent after it, too.
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
    """Shows precall's own log records from `level` on, and those of libraries from WARNING on."""
    handler = logging.StreamHandler()
    handler.setFormatter((logging.Formatter if level == "debug" else _BriefFormatter)(_FORMAT))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("vllm").setLevel(max(logging.WARNING, getattr(logging, level.upper())))
    for name in _OURS:
        logging.getLogger(name).setLevel(level.upper())
