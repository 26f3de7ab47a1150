"""Lets a process write to stdout and stderr without ever waiting for the one who reads them.

A pipe that nobody reads fills up, and then whoever writes to it waits: the event loop with its next
log record, and vLLM's processes, which have inherited the pipe, in the middle of a step. Here both
streams lead to a thread of this process. It keeps what is not read yet, up to a bound, and drops
whole lines beyond it, which it tells when there is room again.

It works on descriptors, since processes that are started later, and libraries in C++, write to
these directly.

Concurrency: one thread for each stream. They run Python for microseconds at a time.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Generator
from typing import Final

KEPT_BYTES_MAX: Final = 1 << 20
"""The most that is kept of each stream until it is read."""
FLUSH_S: Final = 2.0
"""How long the end of the process waits for what is kept to be read."""

_PIPE_BYTES: Final = 1 << 20
"""The size that is asked for a pipe: room for bursts in which our thread does not run."""
_WRITE_BYTES_MAX: Final = select.PIPE_BUF
"""A pipe that is ready takes this many bytes without making the writer wait."""
_READ_BYTES_MAX: Final = 1 << 16

_terminals: set[int] = set()
"""The descriptors that lead to a terminal behind our thread."""


def hidden_terminal(descriptor: int) -> bool:
    """Returns whether a descriptor leads to a terminal through `never_waiting`."""
    return descriptor in _terminals


@contextlib.contextmanager
def never_waiting() -> Generator[None]:
    """In the block, writing to stdout and stderr never waits for a reader.

    Afterwards, what is still kept is written, for FLUSH_S at most.
    """
    relays = [Relay(each) for each in (1, 2)]
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:  # as after a BrokenPipeError
                stream.flush()
        deadline = time.monotonic() + FLUSH_S
        for each in relays:
            each.end(deadline)


class Relay:
    """Takes the place of a descriptor, and passes on what is written to it."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._real = os.dup(descriptor)
        self._incoming, ours = os.pipe()
        with contextlib.suppress(OSError):  # the user's share of large pipes is used up
            fcntl.fcntl(ours, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        if os.isatty(descriptor):
            _terminals.add(descriptor)
        os.dup2(ours, descriptor)
        os.close(ours)
        self._kept = Kept()
        self._end_at: float | None = None
        self._ending = os.eventfd(0, os.EFD_NONBLOCK)
        self._thread = threading.Thread(target=self._run, name="precall-output", daemon=True)
        self._thread.start()

    def end(self, deadline: float) -> None:
        """Gives the descriptor back, and writes what is kept until a reading of the clock."""
        os.dup2(self._real, self._descriptor)
        _terminals.discard(self._descriptor)
        self._end_at = deadline  # the thread may see this and end before it is told to
        os.eventfd_write(self._ending, 1)
        self._thread.join()
        os.close(self._ending)

    def _run(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        waiting = select.poll()
        waiting.register(self._incoming, select.POLLIN)
        waiting.register(self._ending, select.POLLIN)
        while True:
            if self._kept.bytes:
                waiting.register(self._real, select.POLLOUT)
            ending = self._end_at is not None  # so that everything was written before this poll
            ready = dict(waiting.poll(self._patience_ms()))
            if self._incoming in ready:
                if written := os.read(self._incoming, _READ_BYTES_MAX):
                    self._kept.take(written)
                else:  # all writers are gone
                    waiting.unregister(self._incoming)
            if self._real in ready:
                self._pass_on(ready[self._real])
                if not self._kept.bytes:
                    waiting.unregister(self._real)
            if self._ending in ready:
                waiting.unregister(self._ending)
            if ending and self._is_over(busy=self._incoming in ready):
                break
        for each in (self._incoming, self._real):
            os.close(each)

    def _patience_ms(self) -> float | None:
        if self._end_at is None:
            return None
        return max(0.0, self._end_at - time.monotonic()) * 1000 if self._kept.bytes else 0.0

    def _is_over(self, *, busy: bool) -> bool:
        assert self._end_at is not None
        return not (busy or self._kept.bytes) or time.monotonic() >= self._end_at

    def _pass_on(self, event: int) -> None:
        if not event & select.POLLOUT:  # the reader is gone
            self._kept.forget()
            return
        try:
            self._kept.written(os.write(self._real, self._kept.first(_WRITE_BYTES_MAX)))
        except OSError:
            self._kept.forget()


class Kept:
    """What was written and is not read yet: whole lines, up to KEPT_BYTES_MAX."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._lines_dropped = 0
        self._in_dropped_line = False

    @property
    def bytes(self) -> int:
        """How many bytes are kept."""
        return len(self._bytes)

    def take(self, written: bytes) -> None:
        """Keeps more, or drops it if there is no room."""
        if self._in_dropped_line:
            _, end, after = written.partition(b"\n")
            if not end:
                return
            written, self._in_dropped_line = after, False
            self._lines_dropped += 1
        fits = self.bytes + len(written) <= KEPT_BYTES_MAX
        if self._lines_dropped and fits and self.bytes <= KEPT_BYTES_MAX // 2:
            lines = "line" if self._lines_dropped == 1 else "lines"
            note = f"precall: {self._lines_dropped} {lines} dropped here, as nobody read them\n"
            self._bytes += note.encode()
            self._lines_dropped = 0
        if fits and not self._lines_dropped:
            self._bytes += written
            return
        self._drop(written)

    def first(self, most: int) -> memoryview:
        """The first bytes that are kept."""
        return memoryview(bytes(self._bytes[:most]))

    def written(self, number: int) -> None:
        """Forgets the first bytes, since they were passed on."""
        del self._bytes[:number]

    def forget(self) -> None:
        """Forgets everything: there is nobody who could read it."""
        self._bytes.clear()

    def _drop(self, written: bytes) -> None:
        if self._bytes and not self._bytes.endswith(b"\n"):
            self._bytes += b"...\n"  # the rest of this line is dropped
        self._lines_dropped += written.count(b"\n")
        self._in_dropped_line = not written.endswith(b"\n")
