"""The events of a turn that wait for their reader, in bounded memory and without a loss.

Owns: the queue between the reader of the stream and the reader of the turn. While `events_max`
events wait, a piece of text, reasoning or arguments is merged into the last waiting piece of its
kind (in the same step or call), and a call's progress or the turn's queue position replaces the
last one that waits. The pieces still concatenate to the whole, and all other events keep their
order; within a step, text may come before the start of a call that it followed.

The queue holds more than `events_max` events only by what cannot be merged, and the limits of the
turn bound that: per step its start, its end, one piece of text and one of reasoning; per call its
four events, one piece of arguments and one progress; and the events of the turn itself.

Concurrency: used from one event loop; nothing here waits.
"""

from __future__ import annotations

import collections
import dataclasses
from typing import TypeAlias

from precall._events import (
    Event,
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
    """A queue of events. When full, it merges what can be merged."""

    def __init__(self, events_max: int) -> None:
        self._events_max = events_max
        self._entries: collections.deque[_Entry] = collections.deque()
        self._last: dict[_Stream, _Entry] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, event: Event) -> None:
        """Appends an event, or merges it into one that waits when the queue is full."""
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
