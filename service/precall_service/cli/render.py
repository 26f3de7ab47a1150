"""Writes a turn to a terminal or a pipe, as its events arrive.

Owns: what each event looks like. A line is never changed after it has been written.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

import precall

_RESULT_CHARACTERS_MAX: Final = 300

_OUTCOMES: Final = {
    precall.ToolCallOutcome.ERROR: "failed",
    precall.ToolCallOutcome.TIMEOUT: "took too long",
    precall.ToolCallOutcome.CANCELLED: "cancelled",
    precall.ToolCallOutcome.UNAVAILABLE: "has no handler",
    precall.ToolCallOutcome.DENIED: "denied",
}


class TurnView:
    """Writes the events of one turn."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._at_line_start = True
        self._names: dict[str, str] = {}
        self._ready_at: dict[str, float] = {}

    def show(self, event: precall.Event) -> None:
        """Writes an event."""
        match event:
            case precall.TurnQueued(position):
                self._line(f"waiting, {queued(position)}", "dim")
            case precall.ReasoningDelta(text):
                self._piece(text, "dim italic")
            case precall.TextDelta(text):
                self._piece(text)
            case precall.ToolCallReady(call_id, name, arguments):
                self._names[call_id], self._ready_at[call_id] = name, time.monotonic()
                self._line(f"  → {name} {arguments}", "cyan")
            case precall.ToolCallProgress(call_id, message, fraction):
                done = "" if fraction is None else f" {fraction:.0%}"
                self._line(f"  · {self._name(call_id)}: {message}{done}", "dim")
            case precall.ToolCallCompleted():
                self._show_completed(event)
            case precall.TurnCompleted():
                self._show_end(event)
            case _:
                pass

    def close(self) -> None:
        """Ends the line that is still open, if any."""
        if not self._at_line_start:
            self._console.print()
            self._at_line_start = True

    def _name(self, call_id: str) -> str:
        return self._names.get(call_id, call_id)

    def _piece(self, text: str, style: str = "") -> None:
        if text:
            self._console.print(Text(text, style=style), end="")
            self._at_line_start = text.endswith("\n")

    def _line(self, text: str, style: str = "") -> None:
        self.close()
        self._console.print(Text(text, style=style))

    def _show_completed(self, event: precall.ToolCallCompleted) -> None:
        name = self._name(event.call_id)
        began_at = self._ready_at.pop(event.call_id, None)
        took = "" if began_at is None else f" {time.monotonic() - began_at:.2f} s"
        if event.outcome is precall.ToolCallOutcome.RESULT:
            note = f"  ({source})" if (source := origin(event)) else ""
            self._line(f"  ← {name}{took}  {shortened(event.result_json)}{note}", "green")
        else:
            why = f": {event.error.message}" if event.error else ""
            how = _OUTCOMES.get(event.outcome, event.outcome.value)
            self._line(f"  ✗ {name} {how}{took}{why}", "red")

    def _show_end(self, event: precall.TurnCompleted) -> None:
        self.close()
        if event.outcome is precall.TurnOutcome.LIMIT:
            why = event.error.message if event.error else "a limit was reached"
            self._line(f"(cut: {why})", "yellow")
        elif event.outcome is precall.TurnOutcome.CANCELLED:
            self._line("(cancelled)", "yellow")


def origin(event: precall.ToolCallCompleted) -> str:
    """Says where a call's result came from; empty if the handler ran for this call."""
    match event.source:
        case precall.ResultSource.CACHE:
            age_s = event.cache_age_s
            return "from the cache" if age_s is None else f"from the cache, {age_s:.1f} s old"
        case precall.ResultSource.JOINED:
            return "shared with an equal call"
        case _:
            return ""


def queued(position: int) -> str:
    """Says how many turns start before one that waits."""
    return f"{counted(position, 'turn')} before this one"


def counted(count: int, noun: str) -> str:
    """Returns a number with its noun, such as "2 steps"."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def shortened(text: str, characters_max: int = _RESULT_CHARACTERS_MAX) -> str:
    """Returns a text on one line, cut if it is too long to read."""
    line = " ".join(text.split())
    return line if len(line) <= characters_max else f"{line[: characters_max - 1]}…"


def report_table(report: precall.TurnReport) -> Table:
    """Returns a table of where a turn's time and tokens went."""
    table = Table.grid(padding=(0, 2))
    for name, value in _report_rows(report):
        table.add_row(Text(name, style="dim"), value)
    return table


def _report_rows(report: precall.TurnReport) -> Iterator[tuple[str, str]]:
    usage = report.usage
    yield "whole turn", f"{report.wall_time_s:.2f} s in {counted(report.steps, 'step')}"
    yield "waited for admission", f"{report.queue_time_s * 1000:.0f} ms"
    if report.time_to_first_token_s is not None:
        yield "to the first token", f"{report.time_to_first_token_s:.2f} s"
    yield "model generated", f"{report.generation_time_s:.2f} s"
    calls = counted(report.tool_calls, "call")
    yield "waited for tools", f"{report.tool_time_exposed_s:.2f} s in {calls}"
    if report.cache_hits:
        yield "from the cache", counted(report.cache_hits, "call")
    if report.tool_calls:
        yield "result to next token", f"{report.continuation_time_s * 1000:.0f} ms in all"
    yield (
        "prompt tokens",
        f"{usage.input_tokens}, {cached_fraction(usage)} of them from the KV cache",
    )
    yield "generated tokens", f"{usage.output_tokens}{_speed(report)}"


def cached_fraction(usage: precall.TokenUsage) -> str:
    """Returns the fraction of prompt tokens that came from the KV cache, as text."""
    return f"{usage.cached_tokens / usage.input_tokens:.0%}" if usage.input_tokens else "none"


def _speed(report: precall.TurnReport) -> str:
    if not report.generation_time_s:
        return ""
    return f", {report.usage.output_tokens / report.generation_time_s:.0f} a second"
