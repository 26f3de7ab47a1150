"""The queue between the stream and a slow reader: merged and bounded, without a loss."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterable
from typing import TypeAlias

from hypothesis import given
from hypothesis import strategies as st

from precall import (
    DiscardReason,
    Event,
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
    TokenUsage,
    ToolCallArgumentsDelta,
    ToolCallCompleted,
    ToolCallOutcome,
    ToolCallProgress,
    ToolCallReady,
    ToolCallStarted,
    TurnCompleted,
    TurnOutcome,
    TurnReport,
    TurnStarted,
)
from precall._waiting import WaitingEvents

Draw: TypeAlias = st.DrawFn

PIECES = st.lists(st.text(max_size=3), max_size=12)


@st.composite
def interleaved(draw: Draw, parts: list[list[Event]]) -> list[Event]:
    """Returns the parts merged into one list in which each part keeps its order."""
    left = [list(part) for part in parts if part]
    merged: list[Event] = []
    while left:
        part = left[draw(st.integers(0, len(left) - 1))]
        merged.append(part.pop(0))
        left = [part for part in left if part]
    return merged


@st.composite
def steps(draw: Draw, step: int) -> list[Event]:
    """Returns the events of one step, with the runs of its calls after it."""
    written: list[list[Event]] = [
        [TextDelta(text) for text in draw(PIECES)],
        [ReasoningDelta(text) for text in draw(PIECES)],
    ]
    runs: list[list[Event]] = []
    for number in range(draw(st.integers(0, 2))):
        call_id = f"{step}-{number}"
        pieces = draw(PIECES)
        written.append(
            [
                ToolCallStarted(call_id, "tool"),
                *(ToolCallArgumentsDelta(call_id, piece) for piece in pieces),
                ToolCallReady(call_id, "tool", "".join(pieces)),
            ]
        )
        runs.append(
            [
                *(ToolCallProgress(call_id, message) for message in draw(PIECES)),
                ToolCallCompleted(call_id, ToolCallOutcome.RESULT, "1"),
            ]
        )
    return [
        StepStarted(step, 1),
        *draw(interleaved(written)),
        StepCompleted(step, StepFinishReason.STOP, TokenUsage()),
        *draw(interleaved(runs)),
    ]


@st.composite
def predictions(draw: Draw, prediction_id: str) -> list[Event]:
    """Returns the events of one prediction, which gets as far as it may."""
    ends = PredictionConfirmed(prediction_id), PredictionDiscarded(prediction_id)
    events: list[Event] = [
        PredictionProposed(prediction_id),
        PredictionLaunched(prediction_id),
        PredictionReady(prediction_id),
    ]
    return [*events[: draw(st.integers(1, 3))], draw(st.sampled_from(ends))]


@st.composite
def turns(draw: Draw) -> list[Event]:
    parts: list[list[Event]] = [[]]
    for step in range(draw(st.integers(1, 3))):
        parts[0] += draw(steps(step))
    parts += [draw(predictions(str(number))) for number in range(draw(st.integers(0, 4)))]
    events = [TurnStarted(0.0), *draw(interleaved(parts))]
    return [*events, TurnCompleted(TurnOutcome.ANSWERED, "", None, TurnReport())]


def texts(events: Iterable[Event]) -> dict[tuple[object, ...], str]:
    """Returns the concatenated pieces, by step and kind or by call."""
    step = -1
    found: defaultdict[tuple[object, ...], str] = defaultdict(str)
    for event in events:
        match event:
            case StepStarted(number):
                step = number
            case TextDelta(text) | ReasoningDelta(text) if text:
                found[step, type(event)] += text
            case ToolCallArgumentsDelta(call_id, piece) if piece:
                found[call_id,] += piece
            case _:
                pass
    return dict(found)


OF_PREDICTIONS = (
    PredictionProposed
    | PredictionLaunched
    | PredictionReady
    | PredictionConfirmed
    | PredictionDiscarded
)


def others(events: Iterable[Event]) -> list[Event]:
    mergeable = TextDelta | ReasoningDelta | ToolCallArgumentsDelta | ToolCallProgress
    return [event for event in events if not isinstance(event, mergeable | OF_PREDICTIONS)]


def by_prediction(events: Iterable[Event]) -> dict[str, list[Event]]:
    found: defaultdict[str, list[Event]] = defaultdict(list)
    for event in events:
        if isinstance(event, OF_PREDICTIONS):
            found[event.prediction_id].append(event)
    return dict(found)


def last_progress(events: Iterable[Event]) -> dict[str, str]:
    return {event.call_id: event.message for event in events if isinstance(event, ToolCallProgress)}


def excess(events: list[Event]) -> int:
    """Returns how many of the events may wait above the limit: what the turn's limits bound."""
    started = sum(isinstance(event, StepStarted) for event in events)
    calls = sum(isinstance(event, ToolCallStarted) for event in events)
    of_predictions = sum(map(len, by_prediction(events).values()))
    return len(others(events)) + 2 * started + 2 * calls + of_predictions


@given(turns(), st.integers(0, 6), st.data())
def test_a_reader_of_any_pace_gets_everything(
    events: list[Event], events_max: int, data: st.DataObject
) -> None:
    waiting = WaitingEvents(events_max)
    read: list[Event] = []
    for event in events:
        waiting.put(event)
        assert len(waiting) <= events_max + excess(events)
        count = min(len(waiting), data.draw(st.integers(0, 2)))
        read.extend(waiting.take() for _ in range(count))
    read.extend(waiting.take() for _ in range(len(waiting)))
    assert texts(read) == texts(events)
    assert others(read) == others(events)
    assert last_progress(read) == last_progress(events)
    told = by_prediction(read)
    assert told.items() <= by_prediction(events).items()  # each whole, or not at all
    for event in read:  # arguments never move across the start or the end of their call
        if isinstance(event, ToolCallReady):
            so_far = read[: read.index(event)]
            assert texts(so_far).get((event.call_id,), "") == event.arguments_json


def test_nothing_merges_before_the_limit() -> None:
    waiting = WaitingEvents(3)
    events: list[Event] = [TextDelta("a"), TextDelta("b"), ReasoningDelta("c")]
    for event in events:
        waiting.put(event)
    assert [waiting.take() for _ in events] == events


def test_at_the_limit_pieces_merge_within_their_step() -> None:
    waiting = WaitingEvents(1)
    for step in range(2):
        waiting.put(StepStarted(step, 1))
        for piece in ("a", "b", "c"):
            waiting.put(TextDelta(piece))
    read = [waiting.take() for _ in range(len(waiting))]
    assert read == [StepStarted(0, 1), TextDelta("abc"), StepStarted(1, 1), TextDelta("abc")]


def test_the_memory_of_a_long_answer_is_its_text() -> None:
    waiting = WaitingEvents(2)
    for number in range(10_000):
        waiting.put(TextDelta("x"))
        waiting.put(ToolCallProgress("call", str(number)))
    assert len(waiting) == 2
    assert waiting.take() == TextDelta("x" * 10_000)
    assert dataclasses.astuple(waiting.take())[:2] == ("call", "9999")


def test_predictions_are_left_out_whole_while_the_queue_is_full() -> None:
    waiting = WaitingEvents(3)
    for number in range(1000):
        waiting.put(PredictionProposed(str(number)))
    for number in range(1000):
        waiting.put(PredictionLaunched(str(number)))
        waiting.put(PredictionDiscarded(str(number), DiscardReason.MISMATCH))
    read = [waiting.take() for _ in range(len(waiting))]
    assert read == [
        *(PredictionProposed(str(number)) for number in range(3)),
        *(
            event
            for number in range(3)
            for event in (
                PredictionLaunched(str(number)),
                PredictionDiscarded(str(number), DiscardReason.MISMATCH),
            )
        ),
    ]
    waiting.put(PredictionProposed("next"))  # there is room again
    waiting.put(PredictionConfirmed("next"))
    assert len(waiting) == 2


def test_the_memory_of_predictions_that_come_and_go_is_bounded() -> None:
    waiting = WaitingEvents(10)
    for number in range(10_000):
        waiting.put(PredictionProposed(str(number)))
        waiting.put(PredictionLaunched(str(number)))
        waiting.put(PredictionReady(str(number)))
        waiting.put(PredictionDiscarded(str(number)))
    assert len(waiting) == 12  # the last one was proposed while there was room
