"""What is written to stderr, and what is not."""

from __future__ import annotations

import logging
import os
import subprocess
import sys

import pytest

from precall_service.cli.console import LogLevel, configure_logging, stderr_alone
from precall_service.incidents import report_defect

log = logging.getLogger("precall_service.test")


def fail() -> None:
    try:
        raise KeyError("x")
    except KeyError:
        log.exception("it failed")


@pytest.mark.parametrize("level", ["info", "warning", "error"])
def test_failures_are_logged_without_a_stack(
    level: LogLevel, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging(level)
    fail()
    log.info("well")
    shown = capsys.readouterr().err
    assert "ERROR precall_service.test: it failed\nKeyError: 'x'\n" in shown
    assert "Traceback" not in shown
    assert ("well" in shown) is (level == "info")


def test_a_defect_is_logged_with_its_stack(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info")
    try:
        raise KeyError("x")
    except KeyError as error:
        report_defect(log, "it", error)
    assert "Traceback" in capsys.readouterr().err


def test_a_text_cannot_pass_for_another_record(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info")
    log.info("client %s", "a\n2026-01-01 ERROR precall: forged\x1b[2J\x9b\r")
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1
    assert "a\\x0a2026-01-01 ERROR precall: forged\\x1b[2J\\x9b\\x0d" in shown


def test_debug_shows_where(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("debug")
    fail()
    assert "Traceback" in capsys.readouterr().err


def test_libraries_log_warnings_only(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("debug")
    logging.getLogger("library.x").info("chatter")
    logging.getLogger("grpc").info("chatter")
    logging.getLogger("library.x").warning("beware")
    assert capsys.readouterr().err.endswith("WARNING library.x: beware\n")


def test_nothing_else_writes_to_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    with stderr_alone() as console:
        os.write(2, b"a library in C++\n")
        subprocess.run(["/bin/sh", "-c", "echo a child >&2"], check=True)
        console.print("ours")
    print("after", file=sys.stderr)
    assert capfd.readouterr().err == "ours\nafter\n"
