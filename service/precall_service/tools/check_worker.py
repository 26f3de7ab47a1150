"""A process that makes the checks which could keep the event loop from running.

The validator keeps Python's lock, and a few kilobytes can keep it busy for hours: numbers of
thousands of digits, patterns that look around, parts that are evaluated again and again. So the
process forks for each check, and the kernel ends the fork when a bound is reached. What a fork uses
is gone when it ends.

The service writes one request at a time, and reads one answer.

Concurrency: one thread, so that it can fork. It ends when its standard input does.
"""

from __future__ import annotations

import json
import os
import signal
import struct
from typing import Final, NamedTuple, NoReturn, cast

from precall_service.helper_process import bound_fork
from precall_service.tools.checked_texts import Subject, read, told
from precall_service.tools.schema import UNEXPLAINED, MismatchError, Schema, extent_of

CPU_MAX_S: Final = 1.0
"""The most processor time for one check: ten times what an honest result of a megabyte takes."""
WALL_MAX_S: Final = 10.0
"""The most time for one check, in case that a fork hangs or the machine is overloaded."""
MEMORY_MAX_BYTES: Final = 512 << 20
"""The most memory for one check, in addition to what the process has."""

HEAD: Final = struct.Struct(">BII")
"""Precedes a request: its subject, and the bytes of its schema (0: none) and of its text."""
LENGTH: Final = struct.Struct(">I")
"""Precedes an answer: the number of its bytes."""
SUBJECTS: Final = (Subject.ARGUMENTS, Subject.RESULT)

_FITS: Final = b"\0+"
_WRONG: Final = b"\0-"
"""Precedes each thing that a fork says is wrong; the last one counts."""
_REMEDY: Final = "make it smaller, or its schema simpler"
_OUT_OF_MEMORY: Final = 3
"""The status of a fork that has reached its bound."""


class Verdict(NamedTuple):
    """What is wrong with a text, or why its check was given up. Both are empty if it fits."""

    problem: str = ""
    given_up: str = ""


def main() -> None:
    """Answers the requests that standard input brings, on standard output."""
    incoming = os.fdopen(os.dup(0), "rb")
    outgoing = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever is printed must not stand among the answers
    while len(head := incoming.read(HEAD.size)) == HEAD.size:
        subject, schema_bytes, text_bytes = cast("tuple[int, int, int]", HEAD.unpack(head))
        schema, text = incoming.read(schema_bytes), incoming.read(text_bytes)
        if len(schema) + len(text) < schema_bytes + text_bytes:
            return
        answer = json.dumps(_verdict(SUBJECTS[subject], schema, text)).encode()
        outgoing.write(LENGTH.pack(len(answer)) + answer)
        outgoing.flush()


def _verdict(subject: Subject, schema: bytes, text: bytes) -> Verdict:
    """Has a fork check the text, and returns what it has found before it ended."""
    from_fork, to_parent = os.pipe()
    fork = os.fork()
    if fork == 0:
        os.close(from_fork)
        _work(subject, schema, text, to_parent)
    os.close(to_parent)
    with os.fdopen(from_fork, "rb") as found:
        said = found.read()
    _, status = os.waitpid(fork, 0)
    if said == _FITS:
        return Verdict()
    if said:
        return Verdict(problem=said.rpartition(_WRONG)[2].decode(errors="replace"))
    return Verdict(given_up=_given_up(os.waitstatus_to_exitcode(status)))


def _work(subject: Subject, schema: bytes, text: bytes, to_parent: int) -> NoReturn:
    """The fork: checks the text until one of its bounds is reached."""
    status = 1
    try:
        bound_fork(MEMORY_MAX_BYTES)
        signal.setitimer(signal.ITIMER_PROF, CPU_MAX_S)
        signal.setitimer(signal.ITIMER_REAL, WALL_MAX_S)
        _check(subject, schema, text.decode(errors="surrogatepass"), to_parent)
        status = 0
    except MemoryError:
        status = _OUT_OF_MEMORY
    finally:
        os._exit(status)


def _check(subject: Subject, schema_text: bytes, text: str, to_parent: int) -> None:
    """Writes whether the text fits. If it does not, that is said before it is explained."""

    def wrong(problem: str) -> None:
        os.write(to_parent, _WRONG + problem.replace("\0", "?").encode(errors="replace"))

    try:
        value = read(subject, text)
    except MismatchError as error:
        return wrong(str(error))
    if schema_text:
        schema = Schema(json.loads(schema_text))
        try:
            extent_of(value, subject)
            if not schema.fits(value, root=subject):
                wrong(told(subject, MismatchError(f"{subject}: {UNEXPLAINED}")))
                return wrong(told(subject, MismatchError(schema.explained(value, root=subject))))
        except MismatchError as error:
            return wrong(told(subject, error))
    os.write(to_parent, _FITS)
    return None


def _given_up(exit_code: int) -> str:
    """Why a fork ended before it had found anything."""
    match exit_code:
        case _ if exit_code == -signal.SIGPROF:
            return f"takes more than {CPU_MAX_S:g} s to be checked; {_REMEDY}"
        case _ if exit_code == -signal.SIGALRM:
            return f"was not checked within {WALL_MAX_S:g} s; try again"
        case _ if exit_code in {_OUT_OF_MEMORY, -signal.SIGABRT}:
            return f"takes more than {MEMORY_MAX_BYTES >> 20} MiB to be checked; {_REMEDY}"
        case _:
            return f"could not be checked: the check ended with status {exit_code}"


if __name__ == "__main__":
    main()
