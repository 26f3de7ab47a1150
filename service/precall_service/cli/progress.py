"""Shows how far the start of a service is: a live line on a terminal, plain lines elsewhere.

Concurrency: may be called from any thread. One thread of its own repeats, where there is no
terminal, that a long start still goes on.
"""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn


class StartProgress:
    """A context manager that is called with each stage of a start; a stage ends the one before.

    `remind_s`: how often a line is written during a long stage, where there is no terminal.
    """

    def __init__(self, console: Console, *, remind_s: float = 15.0) -> None:
        self._console = console
        self._remind_s = remind_s
        self._began_at = self._stage_at = time.monotonic()
        self._stage = ""
        self._closed = threading.Event()
        self._bar: TaskID | None = None
        self._live = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> Self:
        self._live.start()
        if not self._console.is_terminal:
            threading.Thread(target=self._remind, name="precall-progress", daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close(failed=error is not None)

    def __call__(self, stage: str, fraction: float | None) -> None:
        """Shows that the start is at `stage`, of which `fraction` is done."""
        if self._closed.is_set():  # an abandoned thread may still convert a model after Ctrl-C
            return
        if stage != self._stage:
            self._end_stage("[green]✓[/]")
            self._stage, self._stage_at = stage, time.monotonic()
            if self._console.is_terminal:
                self._bar = self._live.add_task(stage, total=None)
            else:
                self._console.print(f"{stage} ...", markup=False)
        if self._bar is not None and fraction is not None:
            self._live.update(self._bar, total=1.0, completed=fraction)

    def close(self, *, failed: bool = False) -> None:
        """Ends the display, because the start is over. Idempotent."""
        self._closed.set()
        self._end_stage("[red]✗[/]" if failed else "[green]✓[/]")
        self._live.stop()

    def _end_stage(self, mark: str) -> None:
        if self._bar is not None:
            self._live.remove_task(self._bar)
            self._bar = None
            took_s = time.monotonic() - self._stage_at
            self._live.console.print(f"{mark} {escape(self._stage)} [dim]{took_s:.1f} s[/]")

    def _remind(self) -> None:
        while not self._closed.wait(self._remind_s):
            passed_s = time.monotonic() - self._began_at
            line = f"still {self._stage or 'starting'}, {passed_s:.0f} s into the start ..."
            self._console.print(line, markup=False)
