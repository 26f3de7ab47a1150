"""The service's side of the process that makes grammars (`grammar_worker`): start, ask, end."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncGenerator, Sequence
from typing import Final, cast

from precall_service.engine.vllm import grammar_worker
from precall_service.engine.vllm.grammar_worker import LENGTH, Ended, Made, Start, Wanted
from precall_service.engine.vllm.lifeline import first_words
from precall_service.helper_process import end

_ONE_THREAD: Final = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
"""The libraries that it imports would start threads, with which it could not fork."""


class GrammarProcessError(Exception):
    """The process has ended, or could not be started."""


class GrammarProcess:
    """Keeps the process. It is started again if it is asked after it has ended."""

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None
        self._start: Start | None = None

    @property
    def pid(self) -> int | None:
        """Its id; None if it was not started."""
        return None if self._process is None else self._process.pid

    async def spawn(self) -> None:
        """Starts the process, which then imports for some seconds.

        Raises:
            OSError: the process could not be started.
        """
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            f"{first_words()}from {grammar_worker.__name__} import main; main()",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=os.environ | _ONE_THREAD | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            start_new_session=True,  # Ctrl-C must not reach it, and its forks must end with it
        )

    async def serve(self, start: Start) -> None:
        """Tells the process the model, now and whenever it is started again.

        Raises:
            GrammarProcessError: the process has ended.
        """
        self._start = start
        await self._send(start)

    async def ask(self, wanted: Sequence[Wanted]) -> AsyncGenerator[Made | Ended]:
        """Yields what is made of the first schemas, then how that ended. One caller at a time.

        Raises:
            GrammarProcessError: the process has ended.
        On cancel, or if closed early: the process is ended, since it would still answer.
        """
        complete = False
        try:
            if self._process is None:
                await self.spawn()
                await self._send(self._start)
            await self._send(wanted)
            while not complete:
                answer = await self._received()
                complete = "given_up" in answer
                yield answer
        except (OSError, asyncio.IncompleteReadError) as error:
            raise GrammarProcessError(f"{type(error).__name__}: {error}") from error
        finally:
            if not complete:
                await self.close()

    async def close(self) -> None:
        """Ends the process with its forks. Idempotent."""
        process, self._process = self._process, None
        if process is not None:
            await end(process)

    async def _send(self, message: object) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        body = json.dumps(message).encode()
        self._process.stdin.write(LENGTH.pack(len(body)) + body)
        await self._process.stdin.drain()

    async def _received(self) -> Made | Ended:
        assert self._process is not None
        assert self._process.stdout is not None
        (size,) = LENGTH.unpack(await self._process.stdout.readexactly(LENGTH.size))
        return cast("Made | Ended", json.loads(await self._process.stdout.readexactly(size)))
