"""A process that writes to a pipe that nobody reads goes on, and tells what it dropped."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from precall_service.cli import output
from precall_service.cli.output import KEPT_BYTES_MAX, Kept, Relay

SCRIPT = """
import logging, os, subprocess, sys
from precall_service.cli.output import never_waiting
with never_waiting():
    {body}
"""
FLOOD = """
    logging.basicConfig()
    for number in range(40_000):
        logging.warning("%d %s", number, "x" * 80)
    subprocess.run(["/bin/sh", "-c", "head -c 3000000 /dev/zero | tr '\\\\0' 'y' >&2"], check=True)
    with open(sys.argv[1], "w") as done:
        done.write("done")
    sys.stdin.read()
    print("the last line")
"""


def run(body: str, *arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT.format(body=body), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )


def test_a_pipe_that_nobody_reads_stops_nothing(tmp_path: Path) -> None:
    done = tmp_path / "done"
    with run(FLOOD, str(done)) as process:
        deadline = time.monotonic() + 50
        while not done.exists():
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.02)
        stdout, stderr = process.communicate(timeout=20)  # reads, and closes its stdin
    assert process.returncode == 0
    assert stdout == b"the last line\n"
    lines = stderr.decode().splitlines()
    assert lines[0] == "WARNING:root:0 " + "x" * 80
    assert len(stderr) < KEPT_BYTES_MAX + (2 << 20)


def test_the_end_waits_for_no_reader_for_long() -> None:
    body = "os.write(2, b'x' * 3_000_000); os.write(2, b'y' * 3_000_000)"
    with run(body) as process:
        began = time.monotonic()
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(30) == 0
        assert time.monotonic() - began < 20
        process.stdin = None


def test_what_was_written_last_is_not_lost() -> None:
    body = "print('out'); print('err', file=sys.stderr); sys.exit(3)"
    with run(body) as process:
        assert process.communicate(timeout=20) == (b"out\n", b"err\n")
    assert process.returncode == 3


def test_the_thread_may_end_before_it_is_told_to(monkeypatch: pytest.MonkeyPatch) -> None:
    read, write = os.pipe()
    relay = Relay(write)
    tell = os.eventfd_write

    def tell_late(descriptor: int, value: int) -> None:
        relay._thread.join(30)  # pyright: ignore[reportPrivateUsage]
        tell(descriptor, value)

    monkeypatch.setattr(os, "eventfd_write", tell_late)
    relay.end(time.monotonic() + 30)
    for each in (read, write):
        os.close(each)


def test_a_reader_that_is_gone_stops_nothing() -> None:
    body = (
        "sys.stdin.read(1); os.write(2, b'x' * 200_000 + bytes([10])); "
        "os.write(2, b'x' * 200_000); print('goes on')"
    )
    with run(body) as process:
        assert process.stderr is not None
        process.stderr.close()
        process.stderr = None
        assert process.communicate(b"x", timeout=20)[0] == b"goes on\n"


def test_a_terminal_stays_one() -> None:
    ours, theirs = os.openpty()
    body = (
        "from precall_service.cli.output import hidden_terminal as hidden; "
        "print(hidden(2), hidden(1))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT.format(body=body)],
        stdout=subprocess.PIPE,
        stderr=theirs,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    ) as process:
        assert process.communicate(timeout=20)[0] == b"True False\n"
    os.close(ours)
    os.close(theirs)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "KEPT_BYTES_MAX", 20)


def all_of(kept: Kept) -> str:
    text = bytes(kept.first(kept.bytes)).decode()
    kept.written(kept.bytes)
    return text


@pytest.mark.usefixtures("small")
class TestKept:
    def test_lines_beyond_the_bound_are_dropped_and_counted(self) -> None:
        kept = Kept()
        kept.take(b"one one one\n")
        kept.take(b"two " * 4 + b"\n")
        kept.take(b"three\nfour\n")
        kept.take(b"five\n")
        assert all_of(kept) == "one one one\n"
        kept.take(b"six\n")
        assert all_of(kept) == "precall: 4 lines dropped here, as nobody read them\nsix\n"
        kept.take(b"seven\n")
        assert all_of(kept) == "seven\n"

    def test_a_line_that_comes_in_parts_is_dropped_as_a_whole(self) -> None:
        kept = Kept()
        kept.take(b"x" * 30)
        kept.take(b"x" * 30)
        assert all_of(kept) == ""
        kept.take(b"the rest of it\nwhole\n")
        assert all_of(kept) == "precall: 1 line dropped here, as nobody read them\nwhole\n"

    def test_a_line_whose_beginning_is_kept_is_ended(self) -> None:
        kept = Kept()
        kept.take(b"a line ")
        kept.take(b"with an end\nand another one\n")
        assert all_of(kept) == "a line ...\n"
        kept.take(b"next\n")
        assert all_of(kept) == "precall: 2 lines dropped here, as nobody read them\nnext\n"
