"""The queue between the stream and a slow reader: merged and bounded, without a loss."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterable
from typing import TypeAlias

from hypothesis import given
from hypothesis import strategies as st

from precall import (
    Event,
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
def turns(draw: Draw) -> list[Event]:
    events: list[Event] = [TurnStarted(0.0)]
    for step in range(draw(st.integers(1, 3))):
        events += draw(steps(step))
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


def others(events: Iterable[Event]) -> list[Event]:
    mergeable = TextDelta | ReasoningDelta | ToolCallArgumentsDelta | ToolCallProgress
    return [event for event in events if not isinstance(event, mergeable)]


def last_progress(events: Iterable[Event]) -> dict[str, str]:
    return {event.call_id: event.message for event in events if isinstance(event, ToolCallProgress)}


def excess(events: list[Event]) -> int:
    """Returns how many of the events may wait above the limit: what the turn's limits bound."""
    started = sum(isinstance(event, StepStarted) for event in events)
    calls = sum(isinstance(event, ToolCallStarted) for event in events)
    return len(others(events)) + 2 * started + 2 * calls


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
