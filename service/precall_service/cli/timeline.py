"""Records a turn as a timeline: one line for each event, with the time since the turn was sent.

Owns: the clock of the timeline, and which events get a line.
Concurrency: one event loop, except `ran`, which any thread may call.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.table import Table
from rich.text import Text

import precall
from precall_service.cli.render import (
    cached_fraction,
    discarded,
    foreseen,
    origin,
    queued,
    shortened,
)


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a timeline. `at_s` is the time since the turn was sent."""

    at_s: float
    what: str
    text: str
    note: str = ""
    style: str = ""

    def drawn(self) -> Text:
        """Returns the line as text, without its time."""
        line = Text(f"{self.what:<9} ", style="bold")
        line.append(self.text, style=f"not bold {self.style}".strip())
        if self.note:
            line.append(f"  ({self.note})", style="not bold dim")
        return line


class Timeline:
    """Records the lines of one turn as its events arrive."""

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self._sent_at = time.monotonic()
        self._step_at = self._sent_at
        self._prompt_tokens = 0
        self._spoke = False
        """Whether the step has produced a token yet."""
        self._names: dict[str, str] = {}
        self._begun_at: dict[str, float] = {}
        self._results_at: float | None = None
        self._predicted: dict[str, str] = {}
        """The predicted calls."""

    def sent(self, question: str) -> None:
        """Starts the clock, when the turn is sent."""
        self._sent_at = time.monotonic()
        self._line("sent", question)

    def show(self, event: precall.Event) -> None:
        """Adds the line of an event, if it has one."""
        match event:
            case precall.TurnQueued(position):
                self._line("queued", queued(position))
            case precall.TurnStarted(waited_s):
                self._line("admitted", f"after {_ms(waited_s)}")
            case precall.StepStarted(step, prompt_tokens):
                self._step_at, self._spoke = time.monotonic(), False
                self._line(f"step {step + 1}", f"a prompt of {prompt_tokens} tokens")
            case precall.TextDelta() | precall.ReasoningDelta():
                self._first_token()
            case precall.ToolCallStarted(call_id, name):
                self._first_token()
                self._names[call_id] = name
                self._begun_at[call_id] = time.monotonic()
            case precall.ToolCallReady(call_id, name, arguments):
                took_s = time.monotonic() - self._begun_at.get(call_id, self._step_at)
                self._line("call", f"{name} {arguments}", f"written in {_ms(took_s)}", "cyan")
            case precall.ToolCallProgress(call_id, message, _):
                self._line("progress", f"{self._names.get(call_id, call_id)}: {message}")
            case precall.ToolCallCompleted():
                self._completed(event)
            case precall.StepCompleted():
                self._step_ended(event)
            case precall.TurnCompleted():
                self._line("done", event.outcome.value)
            case _:
                self._prediction(event)

    def ran(self, name: str, argument: str, took_s: float) -> None:
        """Notes that a function ran in this process. May be called from any thread."""
        self._line("runs", f"{name}({argument}) in this process", _ms(took_s), "green")

    def _first_token(self) -> None:
        if self._spoke:
            return
        self._spoke = True
        if self._results_at is None:
            took = f"{_ms(time.monotonic() - self._step_at)} after the step began"
        else:
            took = f"{_ms(time.monotonic() - self._results_at)} after the last result"
            self._results_at = None
        self._line("token", f"the first one, {took}")

    def _completed(self, event: precall.ToolCallCompleted) -> None:
        name = self._names.get(event.call_id, event.call_id)
        took = f"{_ms(event.wait_time_s)} after the call was written"
        self._results_at = time.monotonic()
        if event.outcome is precall.ToolCallOutcome.RESULT:
            took = f"{took}; {source}" if (source := origin(event)) else took
            self._line("result", f"{name} returned {shortened(event.result_json)}", took, "green")
        else:
            why = event.error.message if event.error else event.outcome.value
            self._line("result", f"{name} failed: {why}", took, "red")

    def _prediction(self, event: precall.Event) -> None:
        match event:
            case precall.PredictionProposed(prediction_id, name):
                call = f"{name} {shortened(event.arguments_json)}"
                self._predicted[prediction_id] = call
                self._line("predicted", call, foreseen(event), "magenta")
            case precall.PredictionLaunched(prediction_id):
                self._line("launched", f"{self._predicted_call(prediction_id)}, early")
            case precall.PredictionReady(prediction_id, run_time_s):
                took = f"ran for {_ms(run_time_s)}"
                self._line("ready", self._predicted_call(prediction_id), took)
            case precall.PredictionConfirmed(prediction_id, _, lead_time_s):
                lead = f"{_ms(lead_time_s)} after it was predicted"
                self._line("confirmed", self._predicted_call(prediction_id), lead, "green")
            case precall.PredictionDiscarded(prediction_id):
                call = self._predicted_call(prediction_id)
                self._line("discarded", call, discarded(event), "yellow")
            case _:
                pass

    def _predicted_call(self, prediction_id: str) -> str:
        return self._predicted.get(prediction_id, prediction_id)

    def _step_ended(self, event: precall.StepCompleted) -> None:
        usage = event.usage
        took_s = time.monotonic() - self._step_at
        self._line(
            f"step {event.step + 1}",
            f"{usage.output_tokens} tokens in {took_s:.2f} s; {usage.cached_tokens} of "
            f"{usage.input_tokens} prompt tokens were cached ({cached_fraction(usage)})",
        )

    def _line(self, what: str, text: str, note: str = "", style: str = "") -> None:
        at_s = time.monotonic() - self._sent_at
        self.lines.append(Line(at_s, what, text, note, style))


def side_by_side(columns: Mapping[str, Sequence[Line]]) -> Table:
    """Returns timelines as the columns of one table, with a row for each line, in order of time."""
    table = Table(box=None, padding=(0, 1), show_edge=False, header_style="bold", expand=True)
    table.add_column("seconds", justify="right", style="dim", min_width=7)
    for name in columns:
        table.add_column(name, ratio=1, no_wrap=True, overflow="ellipsis")
    rows = [
        (line.at_s, index, line) for index, lines in enumerate(columns.values()) for line in lines
    ]
    for at_s, index, line in sorted(rows, key=lambda row: row[:2]):
        cells = [Text()] * len(columns)
        cells[index] = line.drawn()
        table.add_row(f"{at_s:.3f}", *cells)
    return table


def _ms(seconds: float) -> str:
    if seconds < 0.001:
        return f"{seconds * 1e6:.0f} µs"
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"
