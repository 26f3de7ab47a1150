"""Where a command writes: results to stdout, everything else to stderr."""

from __future__ import annotations

import copy
import logging
import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, TextIO

from rich.console import Console

from precall_service.cli.output import hidden_terminal
from precall_service.incidents import is_defect

LogLevel = Literal["debug", "info", "warning", "error"]

_OURS = ("precall", "precall_service")
_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


_ESCAPES = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0)) if code != 9}
"""Control characters, with which a text could pass for other records or move the cursor."""


class _Formatter(logging.Formatter):
    """One line for each record, and one for its exception.

    Only defects of precall have their traceback, unless `--log-level debug` shows all of them.
    """

    def __init__(self, *, debug: bool) -> None:
        super().__init__(_FORMAT)
        self._debug = debug

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the name is logging's
        """As `logging.Formatter.formatMessage`, with control characters escaped."""
        return super().formatMessage(record).translate(_ESCAPES)

    def format(self, record: logging.LogRecord) -> str:
        """As `logging.Formatter.format`."""
        error = record.exc_info[1] if record.exc_info else None
        if error is None or self._debug or is_defect(record):
            return super().format(record)
        brief = copy.copy(record)
        brief.exc_info, brief.exc_text = None, None
        return f"{super().format(brief)}\n{type(error).__name__}: {error}"


def stdout() -> Console:
    """Returns the console for results."""
    return _console(sys.stdout, 1)


def stderr() -> Console:
    """Returns the console for progress, notices and warnings."""
    return _console(sys.stderr, 2)


def _console(stream: TextIO, descriptor: int) -> Console:
    # Rich asks the stream itself, which may lead to a thread of ours.
    terminal = True if hidden_terminal(descriptor) else None
    return Console(file=stream, force_terminal=terminal, highlight=False, soft_wrap=True)


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
    handler.setFormatter(_Formatter(debug=level == "debug"))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("vllm").setLevel(max(logging.WARNING, getattr(logging, level.upper())))
    for name in _OURS:
        logging.getLogger(name).setLevel(level.upper())
