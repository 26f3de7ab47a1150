"""Reads the events that a conversation sent to its client, and checks their order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from precall_service.agent.outbox import NumberedEvent
from precall_service.domain.events import (
    ConversationEvent,
    Invoke,
    PredictionConfirmed,
    PredictionDiscarded,
    PredictionLaunched,
    PredictionProposed,
    PredictionReady,
    ReasoningDelta,
    StepCompleted,
    StepFinishReason,
    StepStarted,
    TextDelta,
    ToolCallArgumentsDelta,
    ToolCallCompleted,
    ToolCallOutcome,
    ToolCallProgress,
    ToolCallReady,
    ToolCallStarted,
    TurnCompleted,
    TurnEvent,
    TurnOutcome,
    TurnQueued,
    TurnStarted,
)

T = TypeVar("T")


def of(kind: type[T], events: Sequence[object]) -> list[T]:
    """The events of one kind."""
    return [event for event in events if isinstance(event, kind)]


def text_of(events: Sequence[object]) -> str:
    """The streamed text."""
    return "".join(event.text for event in of(TextDelta, events))


def reasoning_of(events: Sequence[object]) -> str:
    """The streamed reasoning."""
    return "".join(event.text for event in of(ReasoningDelta, events))


def check_order(numbered: Sequence[NumberedEvent]) -> None:
    """Checks that numbers have no gap and that each turn's events come in the order of `_Turn`.

    If a client sends a turn again, the turn's ending is sent again unchanged. But a turn that
    failed before its first step starts anew.
    """
    numbers = [event.sequence for event in numbered]
    assert numbers == list(range(1, len(numbers) + 1))
    turns: dict[str, _Turn] = {}
    for event in numbered:
        if event.turn_id:
            turn = turns.setdefault(event.turn_id, _Turn())
            if turn.never_began:
                turn = turns[event.turn_id] = _Turn()
            turn.add(event.event)


@dataclass(slots=True)
class _Call:
    arguments: str = ""
    ready: bool = False
    completed: bool = False


@dataclass(slots=True)
class _Turn:
    """Checks the order of a turn's events."""

    queue_positions: list[int] = field(default_factory=list[int])
    started: bool = False
    step: int = -1
    in_step: bool = False
    text: str = ""
    calls: dict[str, _Call] = field(default_factory=dict[str, _Call])
    predictions: set[str] = field(default_factory=set[str])
    open_predictions: set[str] = field(default_factory=set[str])
    launched: set[str] = field(default_factory=set[str])
    completed: TurnCompleted | None = None

    @property
    def never_began(self) -> bool:
        """Whether the turn failed before its first step, and may begin again under its id."""
        ended = self.completed
        return ended is not None and ended.outcome is TurnOutcome.FAILED and self.step < 0

    def add(self, event: ConversationEvent) -> None:
        if self.completed is not None:
            assert event is self.completed, f"{event} after the turn's end"
            return
        match event:
            case TurnQueued(position):
                assert not self.started
                assert position not in self.queue_positions[-1:], "the same queue position again"
                self.queue_positions.append(position)
            case TurnStarted():
                assert not self.started
                self.started = True
            case TurnCompleted():
                self._complete(event)
            case StepStarted(step):
                assert self.started
                assert not self.in_step
                assert step == self.step + 1
                assert all(call.completed for call in self.calls.values())
                self.step, self.in_step, self.text = step, True, ""
            case StepCompleted(step):
                assert self.in_step
                assert step == self.step
                self.in_step = False
            case TextDelta(text):
                assert self.in_step
                self.text += text
            case ReasoningDelta():
                assert self.in_step
            case Invoke(call_id=""):
                told = self.predictions  # clients may do without the events of predictions
                assert event.prediction_id in self.launched or not told
            case Invoke(call_id=call_id):
                assert self.calls[call_id].ready
                assert not self.calls[call_id].completed
            case _:
                self._add_of_call(event)

    def _add_of_call(self, event: ConversationEvent) -> None:
        match event:
            case ToolCallStarted(call_id):
                assert self.in_step
                assert call_id not in self.calls
                self.calls[call_id] = _Call()
            case ToolCallArgumentsDelta(call_id, fragment):
                assert self.in_step
                assert not self.calls[call_id].ready
                self.calls[call_id].arguments += fragment
            case ToolCallReady(call_id, _, arguments_json):
                assert self.in_step
                assert not self.calls[call_id].ready
                assert self.calls[call_id].arguments == arguments_json
                self.calls[call_id].ready = True
            case ToolCallProgress(call_id):
                assert not self.in_step
                assert not self.calls[call_id].completed
            case ToolCallCompleted(call_id, outcome, _, error, wait_time_s):
                assert not self.calls[call_id].completed
                assert (error is None) == (outcome is ToolCallOutcome.RESULT)
                assert wait_time_s >= 0
                self.calls[call_id].completed = True
            case _:
                self._add_of_prediction(event)

    def _add_of_prediction(self, event: ConversationEvent) -> None:
        match event:
            case PredictionProposed(prediction_id):
                assert prediction_id not in self.predictions
                self.predictions.add(prediction_id)
                self.open_predictions.add(prediction_id)
            case PredictionLaunched(prediction_id):
                assert prediction_id in self.open_predictions - self.launched
                self.launched.add(prediction_id)
            case PredictionReady(prediction_id):
                assert prediction_id in self.open_predictions
            case PredictionConfirmed(prediction_id, call_id):
                self.open_predictions.remove(prediction_id)
                assert self.calls[call_id].ready
            case PredictionDiscarded(prediction_id):
                self.open_predictions.remove(prediction_id)
            case _:
                raise AssertionError(f"{event} does not belong to a turn")

    def _complete(self, event: TurnCompleted) -> None:
        assert not self.in_step
        assert all(call.completed for call in self.calls.values())
        assert not self.open_predictions, "a prediction ends before its turn"
        assert event.text == self.text, "the pieces of a step must add up to its text"
        assert (event.error is None) == (event.outcome is TurnOutcome.ANSWERED)
        assert event.report.steps == self.step + 1
        self.completed = event


def finishes(events: Sequence[TurnEvent | ConversationEvent]) -> list[StepFinishReason]:
    """The finish reason of each step."""
    return [event.finish_reason for event in of(StepCompleted, events)]
