"""Learns from the logs of vLLM's processes why a start failed.

Each of vLLM's processes logs to its own console. The configuration made here gives their loggers
two handlers of ours instead: one shows records from the operator's level on, the other sends the
exceptions that are logged while the engine starts to a socket, where `StartLog` listens.

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
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

_EXPECTED: Final = (
    "Using custom scheduler class precall_service.",  # vLLM's own scheduler, named through ours
    "Model Runner V2 requires Triton",
    "Triton is ",
    "Selected CPU core number (",  # with one core, vLLM reserves none for other processes
    "libtcmalloc is not found",
    "libiomp is not found",
    "Enforce eager set",
    "Inductor compilation was disabled",
    "Reset SSM cache type",
    "Default vLLM sampling parameters have been overridden",
    "Chat template rejected the request",  # the client is told
    "[shutdown] ",
    # About the proposer that precall itself chose, which proposes nothing.
    "Using a custom class-based proposer backend",
    "Async scheduling not supported with custom_class-based",
    "max_num_scheduled_tokens is set to",
    "min_p and logit_bias parameters won't work with speculative decoding",
    "Speculative decoding on CPU without Intel OpenMP",
)
"""Warnings about what precall itself chose, or that every start on a CPU logs."""

_DATAGRAM_BYTES_MAX: Final = 4096


class ExpectedFilter(logging.Filter):
    """Drops warnings that every start logs and that the operator cannot act on."""

    def filter(self, record: logging.LogRecord) -> bool:
        """As `logging.Filter.filter`."""
        if record.levelno > logging.WARNING:
            return True
        message = record.getMessage()
        return not any(message.startswith(text) for text in _EXPECTED)


class StartHandler(logging.Handler):
    """Sends logged exceptions as datagrams, whether or not a `StartLog` still listens."""

    def __init__(self, path: str) -> None:
        super().__init__(logging.ERROR)  # an exception that is only warned of was survived
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)

    def emit(self, record: logging.LogRecord) -> None:
        """As `logging.Handler.emit`."""
        error = record.exc_info[1] if record.exc_info else None
        if error is not None:
            note = f"{type(error).__name__}\n{error}".encode()
            with contextlib.suppress(OSError):
                self._socket.sendto(note[:_DATAGRAM_BYTES_MAX], self._path)

    def close(self) -> None:
        """As `logging.Handler.close`."""
        self._socket.close()
        super().close()


@dataclass(frozen=True, slots=True)
class StartError:
    """An exception in one of the engine's processes."""

    kind: str
    message: str


class StartLog:
    """Listens while an engine starts. An asynchronous context manager.

    `config_path` is a Python logging configuration for vLLM; the file exists inside the block.
    `errors` holds the exceptions that were logged, in order.
    """

    def __init__(self, log_level: str) -> None:
        self._log_level = log_level
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
            lambda: _Receiver(self.errors), sock=receiver
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._transport is not None:
            self._transport.close()
        shutil.rmtree(self._folder, ignore_errors=True)


class _Receiver(asyncio.DatagramProtocol):
    def __init__(self, errors: list[StartError]) -> None:
        self._errors = errors

    def datagram_received(self, data: bytes, addr: object) -> None:
        kind, _, message = data.decode(errors="replace").partition("\n")
        self._errors.append(StartError(kind, message))


def _logging_config(log_level: str, socket_path: Path) -> dict[str, object]:
    """Returns a configuration for `logging.config.dictConfig`."""
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
                "level": log_level,
                "propagate": False,
            }
        },
    }
