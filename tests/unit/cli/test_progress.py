"""The progress of a start, on a terminal and in a log."""

from __future__ import annotations

import io
import re
import threading

import pytest
from rich.console import Console

from precall_service.cli.progress import StartProgress

CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r")


def told(*, terminal: bool, fail: bool = False) -> list[str]:
    console = Console(file=io.StringIO(), width=80, force_terminal=terminal)
    try:
        with StartProgress(console) as progress:
            progress("converting", 0.1)
            progress("converting", 0.9)
            progress("loading [/]", None)
            if fail:
                raise RuntimeError
            progress.close()
            progress("too late", None)
    except RuntimeError:
        pass
    assert isinstance(console.file, io.StringIO)
    return CONTROL.sub("", console.file.getvalue()).splitlines()


class Signalling(io.StringIO):
    """Sets an event when a reminder of the stage is written."""

    def __init__(self) -> None:
        super().__init__()
        self.reminded = threading.Event()

    def write(self, text: str, /) -> int:
        written = super().write(text)
        if "still loading" in text:
            self.reminded.set()
        return written


def test_log_says_that_a_long_stage_goes_on() -> None:
    file = Signalling()
    with StartProgress(Console(file=file, width=80), remind_s=0.01) as progress:
        progress("loading [/]", None)
        assert file.reminded.wait(10)
    assert re.search(
        r"^still loading \[/\], 0 s into the start \.\.\.$", file.getvalue(), re.MULTILINE
    )


def test_log_has_a_line_for_each_stage() -> None:
    assert told(terminal=False) == ["converting ...", "loading [/] ..."]


@pytest.mark.parametrize(("fail", "mark"), [(False, "✓"), (True, "✗")])
def test_terminal_keeps_what_is_done(fail: bool, mark: str) -> None:
    lines = [line for line in told(terminal=True, fail=fail) if re.search("[✓✗]", line)]
    assert len(lines) == 2
    assert re.search(r"✓ converting 0\.0 s", lines[0])
    assert re.search(rf"{mark} loading \[/\] 0\.0 s", lines[1])
