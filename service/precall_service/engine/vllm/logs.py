"""Hears from vLLM's processes how far a start is, and what it failed on, through their logs.

vLLM's processes log for themselves, each to its own console. The configuration made here gives
their loggers two handlers of ours instead: one that shows the records from the operator's level on,
and one that sends the start's milestones and errors to a socket, where `StartLog` listens.

Never: vLLM; logging imports this module in every one of its processes.
Concurrency: handlers run in any process and thread and never block; a full socket drops a record.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import shutil
import socket
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from precall_service.engine.base import Progress

_MILESTONES: Final = (
    ("Initializing a V1 LLM engine", "starting the workers"),
    ("Starting to load model", "loading the weights"),
    ("Loading weights took", "preparing the model"),
    ("Model loading took", "preparing the model"),
    ("Warming up model for the compilation", "compiling the model"),
    ("Dynamo bytecode transform time", "compiling the model"),
    ("Compile and warming up model", "compiling the model"),
    ("Available KV cache memory", "setting up the KV cache"),
    ("for KV cache on node", "setting up the KV cache"),
    ("KV cache size:", "setting up the KV cache"),
    ("Graph capturing finished", "warming up"),
    ("init engine (profile", "warming up"),
)
"""What vLLM's records say at each milestone, and what we say then."""

_EXPECTED: Final = (
    "Using custom scheduler class precall_service.",  # vLLM's own scheduler, named through ours
    "Model Runner V2 requires Triton",
    "Triton is ",
    "libtcmalloc is not found",
    "libiomp is not found",
    "Enforce eager set",
    "Inductor compilation was disabled",
    "Reset SSM cache type",
    "Default vLLM sampling parameters have been overridden",
    "Chat template rejected the request",  # who asked is told
    "[shutdown] ",
)
"""Warnings about what precall has chosen, or what a CPU always says: nothing to act on."""

_DATAGRAM_BYTES_MAX: Final = 4096


class ExpectedFilter(logging.Filter):
    """Keeps back warnings that every start of ours brings."""

    def filter(self, record: logging.LogRecord) -> bool:
        """As `logging.Filter.filter`."""
        if record.levelno > logging.WARNING:
            return True
        message = record.getMessage()
        return not any(message.startswith(text) for text in _EXPECTED)


class StartHandler(logging.Handler):
    """Sends milestones and errors as datagrams; whether anybody listens is of no concern."""

    def __init__(self, path: str) -> None:
        super().__init__(logging.INFO)
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)

    def emit(self, record: logging.LogRecord) -> None:
        """As `logging.Handler.emit`."""
        note = _note(record)
        if note is not None:
            with contextlib.suppress(OSError):
                self._socket.sendto(note.encode()[:_DATAGRAM_BYTES_MAX], self._path)

    def close(self) -> None:
        """As `logging.Handler.close`."""
        self._socket.close()
        super().close()


def _note(record: logging.LogRecord) -> str | None:
    error = record.exc_info[1] if record.exc_info else None
    if error is not None and record.levelno >= logging.ERROR:  # what is only warned of is survived
        return f"{type(error).__name__}\n{error}"
    message = record.getMessage()
    for index, (text, _) in enumerate(_MILESTONES):
        if text in message:
            return str(index)
    return None


@dataclass(frozen=True, slots=True)
class StartError:
    """An exception in one of the engine's processes."""

    kind: str
    message: str


class StartLog:
    """Listens while an engine starts. An asynchronous context manager.

    `config_path` is a Python logging configuration for vLLM, there while the engine starts.
    """

    def __init__(self, on_progress: Progress, log_level: str) -> None:
        self._on_progress = on_progress
        self._log_level = log_level
        self._stages: set[str] = set()
        self._transport: asyncio.DatagramTransport | None = None
        self._folder = Path(tempfile.mkdtemp(prefix="precall-"))
        self.config_path = self._folder / "logging.json"
        self.errors: list[StartError] = []

    async def __aenter__(self) -> Self:
        path = self._folder / "start.sock"
        receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        receiver.setblocking(False)
        receiver.bind(str(path))
        self.config_path.write_text(json.dumps(_logging_config(self._log_level, path)))
        self._transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
            lambda: _Receiver(self._hear), sock=receiver
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._transport is not None:
            self._transport.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _hear(self, note: str) -> None:
        if note.isdecimal():
            stage = _MILESTONES[int(note)][1]
            if stage not in self._stages:  # each of several workers passes every one of them
                self._stages.add(stage)
                self._on_progress(stage, None)
            return
        kind, _, message = note.partition("\n")
        self.errors.append(StartError(kind, message))


class _Receiver(asyncio.DatagramProtocol):
    def __init__(self, hear: Callable[[str], None]) -> None:
        self._hear = hear

    def datagram_received(self, data: bytes, addr: object) -> None:
        self._hear(data.decode(errors="replace"))


def _logging_config(log_level: str, socket_path: Path) -> dict[str, object]:
    """For `logging.config.dictConfig`."""
    here = __name__
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "vllm": {
                "format": "%(levelname)s %(asctime)s vLLM %(processName)s: %(message)s",
                "datefmt": "%H:%M:%S",
            }
        },
        "filters": {"expected": {"()": f"{here}.{ExpectedFilter.__name__}"}},
        "handlers": {
            "console": {
                "class": "logging.StreamHandler",
                "level": log_level,
                "formatter": "vllm",
                "filters": ["expected"],
                "stream": "ext://sys.stderr",
            },
            "start": {"()": f"{here}.{StartHandler.__name__}", "path": str(socket_path)},
        },
        "loggers": {
            "vllm": {
                "handlers": ["console", "start"],
                "level": "DEBUG" if log_level == "DEBUG" else "INFO",
                "propagate": False,
            }
        },
    }
