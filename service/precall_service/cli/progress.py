"""Shows how far the start of a service is: a bar on a terminal, a line a stage elsewhere.

Concurrency: told from any thread.
"""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn


class StartProgress:
    """A context manager that is told stages; each one ends where the next one begins."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._stage = ""
        self._stage_at = time.monotonic()
        self._closed = False
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
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close(failed=error is not None)

    def __call__(self, stage: str, fraction: float | None) -> None:
        """The start is at `stage`, and `fraction` of it is done."""
        if self._closed:  # by Ctrl-C, which a thread that converts a model has not heard of
            return
        if stage != self._stage:
            self._begin(stage)
        if self._bar is not None and fraction is not None:
            self._live.update(self._bar, total=1.0, completed=fraction)

    def close(self, *, failed: bool = False) -> None:
        """The start is over. Idempotent."""
        self._closed = True
        self._end_stage("[red]✗[/]" if failed else "[green]✓[/]")
        self._live.stop()

    def _begin(self, stage: str) -> None:
        self._end_stage("[green]✓[/]")
        self._stage, self._stage_at = stage, time.monotonic()
        if self._console.is_terminal:
            self._bar = self._live.add_task(stage, total=None)
        else:
            self._console.print(f"{stage} ...", markup=False)

    def _end_stage(self, mark: str) -> None:
        if self._bar is not None:
            self._live.remove_task(self._bar)
            self._bar = None
            took_s = time.monotonic() - self._stage_at
            self._live.console.print(f"{mark} {escape(self._stage)} [dim]{took_s:.1f} s[/]")
        self._stage = ""
