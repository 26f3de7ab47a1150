"""A process of a measurement: started by the bench, asked by it line by line, gone with it.

Owns: the pipes between the two. Each line is one JSON object; the child's first one says that it
    is ready. It ends when its standard input does, so none outlives the bench, however that ends.
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
"""What is shown of a child that failed: the end of what it said."""


class ChildFailedError(Exception):
    """The child ended or answered with an error, or what was asked of it failed."""


class Child:
    """The bench's side."""

    def __init__(self, process: asyncio.subprocess.Process, module: str) -> None:
        self._process = process
        self._module = module
        self.usage = psutil.Process(process.pid)
        self.ready: JsonObject = {}

    async def ask(self, command: str, timeout_s: float = 600.0, **fields: object) -> JsonObject:
        """The child's answer to a command.

        Raises:
            ChildFailedError: it ended, takes too long, or the command failed.
        """
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"command": command, **fields}).encode() + b"\n")
        return await self.answer(timeout_s)

    async def answer(self, timeout_s: float) -> JsonObject:
        """The child's next line.

        Raises:
            ChildFailedError: it ended, takes too long, or the line is an error.
        """
        assert self._process.stdout is not None
        try:
            line = await asyncio.wait_for(self._process.stdout.readline(), timeout_s)
        except TimeoutError:
            raise ChildFailedError(f"{self._module} takes more than {timeout_s:g} s") from None
        if not line:
            raise ChildFailedError(f"{self._module} ended; what it said is above")
        answer = cast(JsonObject, json.loads(line))
        if "error" in answer:
            raise ChildFailedError(f"{self._module}: {answer['error']}")
        return answer

    def cpu_s(self) -> float:
        """Processor time that the child has used, all its threads together."""
        times = self.usage.cpu_times()
        return times.user + times.system

    def anonymous_bytes(self) -> int:
        """Memory that is the child's own: resident, less what is mapped from files."""
        memory = self.usage.memory_info()
        return memory.rss - memory.shared

    async def close(self) -> None:
        """Ends the child and what it started. Idempotent."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            await asyncio.wait_for(self._process.wait(), STOP_TIMEOUT_S)
        except TimeoutError:
            print(f"{self._module} does not end by itself", file=sys.stderr)
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
    """A ready child, `python -m module`, on one core if that is wanted.

    Raises:
        ChildFailedError: it did not become ready, or the block failed. What it said is shown.
    """
    with tempfile.TemporaryFile() as said:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            module,
            json.dumps({**config, "core": core}),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=said,
            limit=LINE_BYTES_MAX,
            env=neutral_environ() | dict(environ or {}),
            start_new_session=True,  # a Ctrl-C is for the bench, which then ends its children
        )
        child = Child(process, module)
        try:
            child.ready = await child.answer(START_TIMEOUT_S)
            yield child
        except ChildFailedError:
            _show(module, said)
            raise
        except Exception as error:  # what clients raise is the child's doing more often than not
            _show(module, said)
            told = f"measuring {module} failed: {type(error).__name__}: {error}"
            raise ChildFailedError(told) from error
        finally:
            await child.close()


def neutral_environ() -> dict[str, str]:
    """Our environment without precall's settings, which one arm would follow and another not.

    Where the embedded model lies is none of them.
    """
    return {
        name: value
        for name, value in os.environ.items()
        if not name.upper().startswith("PRECALL_") or name == "PRECALL_CACHE_DIR"
    }


def _show(module: str, said: IO[bytes]) -> None:
    said.seek(-min(SHOWN_BYTES, said.seek(0, os.SEEK_END)), os.SEEK_END)
    if text := said.read().decode(errors="replace"):
        print(f"{module} said:\n{text}", file=sys.stderr)


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
    """The child's side of the pipes. Whatever else is printed goes to standard error."""

    def __init__(self) -> None:
        self._out = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)

    def say(self, line: JsonObject) -> None:
        """One line to the bench."""
        print(json.dumps(line), file=self._out, flush=True)

    async def answer(self, ready: JsonObject, commands: Commands) -> None:
        """Says that the child is ready, then answers commands until the bench has no more."""
        reader = asyncio.StreamReader(limit=LINE_BYTES_MAX)
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        self.say(ready)
        while line := await reader.readline():
            fields = _object(line)
            command = commands[str(fields.pop("command"))]
            try:
                self.say(await command(fields))
            except Exception as error:  # noqa: BLE001 - the bench is told, and decides
                self.say({"error": f"{type(error).__name__}: {error}"})


def _object(line: str | bytes) -> dict[str, JsonValue]:
    return cast(dict[str, JsonValue], json.loads(line))
