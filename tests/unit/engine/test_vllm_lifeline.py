"""Processes end with the one that has started them, whatever they do."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Sequence
from pathlib import Path

import psutil
import pytest

from precall_service.engine.vllm import lifeline

GONE_S = 10.0

SCRIPT = """
import multiprocessing, os, sys, threading, time
from precall_service.engine.vllm.lifeline import tie_spawned

def busy(note):
    os.write(1, f"{note} {os.getpid()}\\n".encode())
    while True:
        pass

def stopped(note):
    os.write(1, f"{note} {os.getpid()}\\n".encode())
    os.kill(os.getpid(), 19)

def family(note):
    os.write(1, f"{note} {os.getpid()}\\n".encode())
    context = multiprocessing.get_context("spawn")
    for child in (busy, stopped):
        context.Process(target=child, args=(child.__name__,)).start()
    sum(range(10**12))  # never gives Python's lock away

def start(over):
    process = multiprocessing.get_context("spawn").Process(target=family, args=("family",))
    process.start()
    over.wait()

if __name__ == "__main__":
    tie_spawned()
    tie_spawned()
    over = threading.Event()
    thread = threading.Thread(target=start, args=(over,))
    thread.start()
    for line in sys.stdin:
        over.set()
    thread.join()
    print("still here", flush=True)
    time.sleep(600)
"""


class Family:
    """A process, its child and its grandchildren."""

    def __init__(self, script: Path) -> None:
        path = os.pathsep.join([str(Path(lifeline.__file__).parents[3]), *sys.path])
        self.process = subprocess.Popen(
            [sys.executable, str(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": path},
        )
        assert self.process.stdout is not None
        told = [self.process.stdout.readline().split() for _ in range(3)]
        assert {name for name, _ in told} == {"family", "busy", "stopped"}
        self.others = [psutil.Process(int(pid)) for _, pid in told]
        # multiprocessing's own helper, which ends when the last of the others has.
        self.others += [
            each
            for each in psutil.Process(self.process.pid).children(recursive=True)
            if each not in self.others
        ]

    def end(self) -> None:
        for each in (*self.others, self.process):
            try:
                each.kill()
            except (psutil.NoSuchProcess, ProcessLookupError):
                continue
        self.process.wait(GONE_S)
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            stream.close()


def living(processes: Sequence[psutil.Process]) -> list[psutil.Process]:
    """Those that still live after a while. A zombie is dead: its parent has not asked yet."""
    deadline = time.monotonic() + GONE_S
    while alive := [each for each in processes if each.is_running() and not is_zombie(each)]:
        if time.monotonic() > deadline:
            break
        time.sleep(0.05)
    return alive


def is_zombie(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.fixture
def family(tmp_path: Path) -> Generator[Family]:
    script = tmp_path / "family.py"
    script.write_text(SCRIPT)
    made = Family(script)
    yield made
    made.end()


def test_a_kill_of_the_first_ends_all(family: Family) -> None:
    assert len(family.others) >= 4
    os.kill(family.process.pid, signal.SIGKILL)
    assert not living(family.others)


def test_the_end_of_the_thread_that_started_them_ends_them(family: Family) -> None:
    assert family.process.stdin is not None
    assert family.process.stdout is not None
    family.process.stdin.write("over\n")
    family.process.stdin.close()
    assert family.process.stdout.readline() == "still here\n"
    assert not living(family.others[:3])
    assert family.process.poll() is None


def test_one_whose_parent_has_already_ended_ends_at_once(tmp_path: Path) -> None:
    words = lifeline.first_words().replace(str(os.getpid()), "1")
    ended = subprocess.run(
        [sys.executable, "-c", words + "print('here')"], check=False, capture_output=True, text=True
    )
    assert (ended.returncode, ended.stdout) == (1, "")


def test_a_child_of_ours_goes_on() -> None:
    begun = time.monotonic()
    ended = subprocess.run(
        [sys.executable, "-c", lifeline.first_words() + "print('here')"],
        check=False,
        capture_output=True,
        text=True,
    )
    assert (ended.returncode, ended.stdout) == (0, "here\n")
    assert time.monotonic() - begun < GONE_S


CYCLE = """
import gc

class Cycle:
    def __init__(self):
        self.own = self

    def __del__(self):
        print("collected")

gc.disable()
Cycle()
print(gc.get_threshold()[0])
"""


def test_a_child_of_ours_collects_seldom_and_not_at_its_exit() -> None:
    told = [
        subprocess.run(
            [sys.executable, "-c", words + CYCLE], check=True, capture_output=True, text=True
        ).stdout.split()
        for words in ("", lifeline.first_words() + "\n")
    ]
    assert told == [[str(gc.get_threshold()[0]), "collected"], ["10000"]]
