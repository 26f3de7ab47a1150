"""The events of a turn that wait for their reader, in bounded memory.

Owns: the queue between the reader of the stream and the reader of the turn. While `events_max`
events wait, a piece of text, reasoning or arguments is merged into the last waiting piece of its
kind (in the same step or call), and a call's progress or the turn's queue position replaces the
last one that waits. The pieces still concatenate to the whole, and all other events keep their
order; within a step, text may come before the start of a call that it followed. A prediction that
is proposed while the queue is full is left out, with all its later events; the reader still gets
the whole of every other prediction.

The queue holds more than `events_max` events only by what cannot be merged, and the limits of the
turn bound that: per step its start, its end, one piece of text and one of reasoning; per call its
four events, one piece of arguments and one progress; and the events of the turn itself. The limits
do not bound predictions, but what waits of them is bounded as well: three events for each one that
was proposed while there was room and has not ended.

Concurrency: used from one event loop; nothing here waits.
"""

from __future__ import annotations

import collections
import dataclasses
from typing import TypeAlias

from precall._events import (
    Event,
    PredictionConfirmed,
    PredictionDiscarded,
    PredictionLaunched,
    PredictionProposed,
    PredictionReady,
    ReasoningDelta,
    StepCompleted,
    StepStarted,
    TextDelta,
    ToolCallArgumentsDelta,
    ToolCallProgress,
    TurnQueued,
)

_Stream: TypeAlias = tuple[type[Event], str]
"""What pieces are merged by: their kind, and the id of their call if they have one."""


@dataclasses.dataclass(slots=True)
class _Entry:
    """An event that waits, and the text of later pieces to append to it."""

    event: Event
    stream: _Stream | None
    more: list[str] = dataclasses.field(default_factory=list[str])

    def merge(self, later: Event) -> None:
        match later:
            case TextDelta(text) | ReasoningDelta(text):
                self.more.append(text)
            case ToolCallArgumentsDelta(_, json_fragment):
                self.more.append(json_fragment)
            case _:
                self.event = later

    def merged(self) -> Event:
        if not self.more:
            return self.event
        more = "".join(self.more)
        match self.event:
            case TextDelta(text) | ReasoningDelta(text):
                return dataclasses.replace(self.event, text=text + more)
            case ToolCallArgumentsDelta(_, json_fragment):
                return dataclasses.replace(self.event, json_fragment=json_fragment + more)
            case _:
                return self.event


class WaitingEvents:
    """A queue of events. When full, it merges what can be merged, and leaves predictions out."""

    def __init__(self, events_max: int) -> None:
        self._events_max = events_max
        self._entries: collections.deque[_Entry] = collections.deque()
        self._last: dict[_Stream, _Entry] = {}
        self._told: set[str] = set()
        """The predictions that the reader is told of and that have not ended."""

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, event: Event) -> None:
        """Appends an event. If the queue is full, may merge it into one that waits, or drop it."""
        if not self._is_told(event):
            return
        if isinstance(event, StepStarted | StepCompleted):
            # Text of one step is never merged into that of another.
            self._last.pop((TextDelta, ""), None)
            self._last.pop((ReasoningDelta, ""), None)
        stream = _stream_of(event)
        if stream is not None and len(self) >= self._events_max and stream in self._last:
            self._last[stream].merge(event)
            return
        entry = _Entry(event, stream)
        self._entries.append(entry)
        if stream is not None:
            self._last[stream] = entry

    def take(self) -> Event:
        """Removes and returns the oldest event.

        Raises:
            IndexError: No event waits.
        """
        entry = self._entries.popleft()
        if entry.stream is not None and self._last.get(entry.stream) is entry:
            del self._last[entry.stream]
        return entry.merged()

    def clear(self) -> None:
        """Drops everything."""
        self._entries.clear()
        self._last.clear()
        self._told.clear()

    def _is_told(self, event: Event) -> bool:
        """Returns whether the reader gets an event. Only predictions may be left out."""
        match event:
            case PredictionProposed(prediction_id):
                told = len(self) < self._events_max
                if told:
                    self._told.add(prediction_id)
                return told
            case PredictionLaunched(prediction_id) | PredictionReady(prediction_id):
                return prediction_id in self._told
            case PredictionConfirmed(prediction_id) | PredictionDiscarded(prediction_id):
                told = prediction_id in self._told
                self._told.discard(prediction_id)
                return told
            case _:
                return True


def _stream_of(event: Event) -> _Stream | None:
    match event:
        case TextDelta() | ReasoningDelta():
            return type(event), ""
        case TurnQueued():
            return TurnQueued, ""
        case ToolCallArgumentsDelta() | ToolCallProgress():
            return type(event), event.call_id
        case _:
            return None
