"""Writes a turn as a timeline: one line for each event, with the time since the turn was sent.

Owns: the clock of the timeline, and which events get a line.
Concurrency: one event loop, except `ran`, which any thread may call.
"""

from __future__ import annotations

import time

from rich.console import Console
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


class Timeline:
    """Writes one turn as its events arrive."""

    def __init__(self, console: Console) -> None:
        self._console = console
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
        """Writes the line of an event, if it has one."""
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
        """Writes that a function ran in this process. May be called from any thread."""
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
        line = Text(f"  {time.monotonic() - self._sent_at:7.3f} s  ", style="dim")
        line.append(f"{what:<9} ", style="not dim bold")
        line.append(text, style=f"not dim {style}".strip())
        if note:
            line.append(f"  ({note})")
        self._console.print(line)


def _ms(seconds: float) -> str:
    if seconds < 0.001:
        return f"{seconds * 1e6:.0f} µs"
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"
