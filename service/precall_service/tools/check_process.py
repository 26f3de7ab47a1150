"""The service's side of the process that makes costly checks (`check_worker`): start, ask, end."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Final

from precall_service.helper_process import end
from precall_service.tools import check_worker
from precall_service.tools.check_worker import HEAD, LENGTH, SUBJECTS, WALL_MAX_S, Verdict
from precall_service.tools.checked_texts import Subject

ANSWER_MAX_S: Final = WALL_MAX_S + 10.0
"""How long an answer may take; longer than a check, whose bounds the process sees to."""


class CheckProcessError(Exception):
    """The process has ended, does not answer, or could not be started."""


class CheckProcess:
    """Keeps the process, which starts when it is first asked, and again if it has ended."""

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int | None:
        """Its id; None if it does not run."""
        return None if self._process is None else self._process.pid

    async def ask(self, subject: Subject, schema: str, text: str) -> Verdict:
        """Returns what is wrong with a text. One caller at a time. `schema` is empty for none.

        Raises:
            CheckProcessError: there is no answer.
        On cancel: the process is ended, since it would still answer.
        """
        complete = False
        try:
            async with asyncio.timeout(ANSWER_MAX_S):
                verdict = await self._asked(subject, schema, text)
            complete = True
        except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
            raise CheckProcessError(f"{type(error).__name__}: {error}") from error
        finally:
            if not complete:
                await self.close()
        return verdict

    async def close(self) -> None:
        """Ends the process with its forks. Idempotent."""
        process, self._process = self._process, None
        if process is not None:
            await end(process)

    async def _asked(self, subject: Subject, schema: str, text: str) -> Verdict:
        if self._process is None:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                check_worker.__name__,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                start_new_session=True,  # Ctrl-C must not reach it, and its forks must end with it
            )
        writer, reader = self._process.stdin, self._process.stdout
        assert writer is not None
        assert reader is not None
        parts = [each.encode(errors="surrogatepass") for each in (schema, text)]
        head = HEAD.pack(SUBJECTS.index(subject), *map(len, parts))
        writer.writelines((head, *parts))
        await writer.drain()
        (size,) = LENGTH.unpack(await reader.readexactly(LENGTH.size))
        return Verdict(*json.loads(await reader.readexactly(size)))
