"""Writes a turn to a terminal or a pipe, as its events arrive.

Owns: what each event looks like. A line is never changed after it has been written. What happens
beside the model, such as an early run, gets a line of its own, which waits until the model's line
is complete.
"""

from __future__ import annotations

import enum
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
        self._predictions: dict[str, precall.PredictionProposed] = {}
        self._early: set[str] = set()
        """The predictions that run early; the others get no line."""
        self._asides: list[str] = []
        """Lines that wait until the model's line is complete."""

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
                self._show_prediction(event)

    def close(self) -> None:
        """Ends the line that is still open, if any."""
        if not self._at_line_start:
            self._console.print()
            self._at_line_start = True
        self._show_asides()

    def _show_prediction(self, event: precall.Event) -> None:
        match event:
            case precall.PredictionProposed(prediction_id):
                self._predictions[prediction_id] = event
            case precall.PredictionLaunched(prediction_id):
                self._early.add(prediction_id)
                proposed = self._predictions.get(prediction_id, precall.PredictionProposed())
                self._aside(
                    f"{proposed.tool_name} {shortened(proposed.arguments_json)} runs early "
                    f"({foreseen(proposed)})"
                )
            case precall.PredictionReady(prediction_id, run_time_s) if prediction_id in self._early:
                self._aside(f"{self._predicted(prediction_id)} is ready after {run_time_s:.2f} s")
            case precall.PredictionConfirmed(prediction_id, _, lead_time_s):
                self._aside(
                    f"{self._predicted(prediction_id)} is confirmed, foreseen {lead_time_s:.2f} s "
                    "before"
                )
            case precall.PredictionDiscarded(prediction_id) if prediction_id in self._early:
                self._aside(f"{self._predicted(prediction_id)} is discarded: {discarded(event)}")
            case _:
                pass

    def _predicted(self, prediction_id: str) -> str:
        proposed = self._predictions.get(prediction_id)
        return prediction_id if proposed is None else proposed.tool_name

    def _aside(self, text: str) -> None:
        self._asides.append(text)
        if self._at_line_start:
            self._show_asides()

    def _show_asides(self) -> None:
        asides, self._asides = self._asides, []
        for text in asides:
            self._console.print(Text(f"  ~ {text}", style="dim"))

    def _name(self, call_id: str) -> str:
        return self._names.get(call_id, call_id)

    def _piece(self, text: str, style: str = "") -> None:
        if self._asides and (cut := text.rfind("\n") + 1):
            self._console.print(Text(text[:cut], style=style), end="")
            self._show_asides()
            text = text[cut:]
            self._at_line_start = True
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
        case precall.ResultSource.SPECULATIVE:
            saved_s = event.time_saved_s
            return "ran early" if saved_s is None else f"ran early, saved {saved_s:.2f} s"
        case _:
            return ""


def foreseen(proposed: precall.PredictionProposed) -> str:
    """Says what a prediction comes from, and how sure it is: "history, 83%"."""
    return f"{words(proposed.predictor)}, {proposed.confidence:.0%}"


def discarded(event: precall.PredictionDiscarded) -> str:
    """Says why a prediction was discarded, and what it cost: "mismatch, 0.31 s wasted"."""
    cost = f", {event.time_wasted_s:.2f} s wasted" if event.time_wasted_s >= 0.005 else ""
    return f"{words(event.reason)}{cost}"


def words(member: enum.Enum) -> str:
    """Returns the name of a member in words, such as "early dispatch"."""
    return member.name.lower().replace("_", " ")


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


def report_table(*reports: precall.TurnReport) -> Table:
    """Returns a table of where a turn's time and tokens went, with a column for each turn."""
    table = Table.grid(padding=(0, 2))
    columns = [dict(_report_rows(report)) for report in reports]
    names = dict.fromkeys(name for column in columns for name in column)
    for name in names:
        table.add_row(Text(name, style="dim"), *(column.get(name, "") for column in columns))
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
    if report.tool_time_hidden_s:
        yield "hidden tool time", f"{report.tool_time_hidden_s:.2f} s while the model generated"
    if report.saved_by_overlap_s:
        yield "saved by overlap", f"{report.saved_by_overlap_s:.2f} s"
    if report.draft_tokens_proposed:
        accepted, proposed = report.draft_tokens_accepted, report.draft_tokens_proposed
        yield "drafts", _drafted(accepted, proposed, report.saved_by_drafts_s)
    for draft in report.drafts:
        source = "ends of calls" if draft.predictor is None else words(draft.predictor)
        yield (
            f"  {source}{draft.tool_name and ', '}{draft.tool_name}",
            _drafted(draft.tokens_accepted, draft.tokens_proposed, draft.saved_s),
        )
    if report.predictions:
        yield "predictions confirmed", f"{report.predictions_confirmed} of {report.predictions}"
    if report.wasted_time_s:
        yield "wasted by predictions", f"{report.wasted_time_s:.2f} s of tools"
    if report.cache_hits:
        yield "from the cache", counted(report.cache_hits, "call")
    if report.tool_calls:
        yield "result to next token", f"{report.continuation_time_s * 1000:.0f} ms in all"
    yield (
        "prompt tokens",
        f"{usage.input_tokens}, {cached_fraction(usage)} of them from the KV cache",
    )
    yield "generated tokens", f"{usage.output_tokens}{_speed(report)}"


def _drafted(accepted: int, proposed: int, saved_s: float) -> str:
    return f"{accepted} of {proposed} tokens accepted, {saved_s:.2f} s saved"


def cached_fraction(usage: precall.TokenUsage) -> str:
    """Returns the fraction of prompt tokens that came from the KV cache, as text."""
    return f"{usage.cached_tokens / usage.input_tokens:.0%}" if usage.input_tokens else "none"


def _speed(report: precall.TurnReport) -> str:
    if not report.generation_time_s:
        return ""
    return f", {report.usage.output_tokens / report.generation_time_s:.0f} a second"
