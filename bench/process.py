"""A child process of a bench: started, queried line by line, and ended by the bench.

Owns: the pipes between the two. Each line is one JSON object. The child's first line says that it
    is ready. A child ends when its standard input ends, so it never outlives the bench, even if
    the bench is killed.
Concurrency: one event loop on each side; one command at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import tempfile
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import IO, cast

import psutil

from precall_service.domain.json import JsonObject, JsonValue

Commands = Mapping[str, Callable[[JsonObject], Awaitable[JsonObject]]]

START_TIMEOUT_S = 900.0
STOP_TIMEOUT_S = 60.0
LINE_BYTES_MAX = 64 << 20
SHOWN_BYTES = 8 << 10
"""How much of a failed child's output is shown, counted from its end."""


class ChildFailedError(Exception):
    """The child ended, was too slow, answered with an error, or could not be measured."""


class Child:
    """The bench's side of the pipes."""

    def __init__(self, process: asyncio.subprocess.Process, module: str) -> None:
        self._process = process
        self._module = module
        self.usage = psutil.Process(process.pid)
        self.ready: JsonObject = {}

    async def ask(self, command: str, timeout_s: float = 600.0, **fields: object) -> JsonObject:
        """Returns the child's answer to a command.

        Raises:
            ChildFailedError: The child ended or took too long, or the command failed.
        """
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"command": command, **fields}).encode() + b"\n")
        return await self.answer(timeout_s)

    async def answer(self, timeout_s: float) -> JsonObject:
        """Returns the child's next line.

        Raises:
            ChildFailedError: The child ended or took too long, or the line is an error.
        """
        assert self._process.stdout is not None
        try:
            line = await asyncio.wait_for(self._process.stdout.readline(), timeout_s)
        except TimeoutError:
            raise ChildFailedError(f"{self._module} took more than {timeout_s:g} s") from None
        if not line:
            raise ChildFailedError(f"{self._module} ended; its output is above")
        answer = cast(JsonObject, json.loads(line))
        if "error" in answer:
            raise ChildFailedError(f"{self._module}: {answer['error']}")
        return answer

    def cpu_s(self) -> float:
        """The processor time that the child has used, over all its threads."""
        times = self.usage.cpu_times()
        return times.user + times.system

    def anonymous_bytes(self) -> int:
        """The child's own memory: its resident memory without mapped files."""
        memory = self.usage.memory_info()
        return memory.rss - memory.shared

    async def close(self) -> None:
        """Ends the child and the processes that it started. Idempotent."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            await asyncio.wait_for(self._process.wait(), STOP_TIMEOUT_S)
        except TimeoutError:
            print(f"{self._module} did not end by itself and is killed", file=sys.stderr)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            await self._process.wait()


@asynccontextmanager
async def started(
    module: str,
    config: JsonObject,
    *,
    core: int | None = None,
    environ: Mapping[str, str] | None = None,
) -> AsyncGenerator[Child]:
    """Runs `python -m module` until the block ends, on one core if `core` is set.

    Yields the child when it is ready.

    Raises:
        ChildFailedError: The child did not become ready, or the block failed. Its output is shown.
    """
    with tempfile.TemporaryFile() as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            module,
            json.dumps({**config, "core": core}),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=output,
            limit=LINE_BYTES_MAX,
            env=neutral_environ() | dict(environ or {}),
            start_new_session=True,  # Ctrl-C must reach only the bench, which ends its children
        )
        child = Child(process, module)
        try:
            child.ready = await child.answer(START_TIMEOUT_S)
            yield child
        except ChildFailedError:
            _show(module, output)
            raise
        except Exception as error:  # usually raised by a client because of the child
            _show(module, output)
            message = f"measuring {module} failed: {type(error).__name__}: {error}"
            raise ChildFailedError(message) from error
        finally:
            await child.close()


def neutral_environ() -> dict[str, str]:
    """The bench's environment without precall's settings, which only one arm would obey.

    The folder of the embedded model is kept, since both arms use it.
    """
    return {
        name: value
        for name, value in os.environ.items()
        if not name.upper().startswith("PRECALL_") or name == "PRECALL_CACHE_DIR"
    }


def _show(module: str, output: IO[bytes]) -> None:
    output.seek(-min(SHOWN_BYTES, output.seek(0, os.SEEK_END)), os.SEEK_END)
    if text := output.read().decode(errors="replace"):
        print(f"output of {module}:\n{text}", file=sys.stderr)


def run_child(main: Callable[[JsonObject, Link], Awaitable[None]]) -> None:
    """The child's side: runs `main` with its configuration and the link to the bench."""
    link = Link()
    config = _object(sys.argv[1])
    core = config.pop("core")
    if isinstance(core, int):
        os.sched_setaffinity(0, {core})

    async def run() -> None:
        await main(config, link)

    try:
        asyncio.run(run())
    except Exception as error:
        link.say({"error": f"{type(error).__name__}: {error}"})
        raise


class Link:
    """The child's side of the pipes. All other output is redirected to standard error."""

    def __init__(self) -> None:
        self._out = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)

    def say(self, line: JsonObject) -> None:
        """Sends one line to the bench."""
        print(json.dumps(line), file=self._out, flush=True)

    async def answer(self, ready: JsonObject, commands: Commands) -> None:
        """Sends `ready`, then answers commands until the bench closes the pipe."""
        reader = asyncio.StreamReader(limit=LINE_BYTES_MAX)
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        self.say(ready)
        while line := await reader.readline():
            fields = _object(line)
            command = commands[str(fields.pop("command"))]
            try:
                self.say(await command(fields))
            except Exception as error:  # noqa: BLE001 - sent to the bench, which decides
                self.say({"error": f"{type(error).__name__}: {error}"})


def _object(line: str | bytes) -> dict[str, JsonValue]:
    return cast(dict[str, JsonValue], json.loads(line))
