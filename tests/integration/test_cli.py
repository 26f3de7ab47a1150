"""The command line as a user runs it: in its own process, with the embedded model."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil

PRECALL = str(Path(sys.executable).parent / "precall")
TIMEOUT_S = 240


def run(*arguments: str, timeout_s: float = TIMEOUT_S) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [PRECALL, *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        start_new_session=True,
    )


def left_of(group: int, timeout_s: float = 10) -> list[psutil.Process]:
    """Returns the processes of a group that still exist after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while True:
        left = [process for process in psutil.process_iter() if in_group(process, group)]
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.1)


def in_group(process: psutil.Process, group: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        return os.getpgid(process.pid) == group
    return False


def test_demo_shows_a_turn_that_runs_real_functions() -> None:
    demo = run("demo")
    assert demo.returncode == 0, demo.stdout + demo.stderr
    for told in (
        "step 1",
        "call      count_letters",
        "call      get_time",
        "step 2",
        "✓ without speculation: count_letters(elephant), get_time(Tokyo) ran in",
        "✓ without speculation: the answer has both results in it",
        "✓ with speculation: the answer has both results in it",
        "confirmed count_letters",
        "s in all:",
    ):
        assert told in demo.stdout
    # On a slow machine it also pays to run the calls early that the model may repeat.
    (ran,) = re.findall(r"✓ with speculation: (.+) ran in", demo.stdout)
    assert set(ran.split(", ")) == {"count_letters(elephant)", "get_time(Tokyo)"}
    # Only the stages of the start are printed: no process and no library writes a warning.
    assert all(line.endswith(" ...") for line in demo.stderr.splitlines()), demo.stderr


def test_serve_can_be_stopped_while_it_starts() -> None:
    with subprocess.Popen(
        [PRECALL, "serve", "--port", "0"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as serve:
        assert serve.stderr is not None
        shown = ""
        for line in serve.stderr:
            shown += line
            if line.startswith("importing vLLM"):
                os.killpg(serve.pid, signal.SIGINT)  # as a terminal does on Ctrl-C
        assert serve.wait(TIMEOUT_S) == 130
    assert shown.endswith("stopped at once\n")
    assert not left_of(serve.pid)


def test_a_taken_port_is_reported() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        serve = run("serve", "--port", port)
    assert serve.returncode == 1
    assert f"precall: cannot listen at 127.0.0.1:{port}" in serve.stderr
    assert "Traceback" not in serve.stderr


def test_a_missing_model_is_reported() -> None:
    serve = run("serve", "--model", "./there-is-no-such-model")
    assert serve.returncode == 1
    assert serve.stderr.startswith("precall: --model ./there-is-no-such-model: there is no such")
    assert len(serve.stderr.splitlines()) == 1


def test_doctor_finds_no_problem() -> None:
    doctor = run("doctor", "--port", "0")
    assert doctor.returncode == 0, doctor.stdout
    assert not doctor.stderr
    assert "✓ engine    vLLM 0.32" in doctor.stdout
