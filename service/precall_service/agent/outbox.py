"""The events that one conversation sends to its client: numbered, in order, bounded.

An event gets its number when it is taken. If the transport is behind by BEHIND events, it is given
pieces of one text as one event, since a write costs the same for any number of tokens. A crowd of
conversations then gets larger pieces, and not later ones.

Owns: the numbers of events. (The journal for resuming a stream will belong here.)
Never: encodes events; the transport turns them into frames.
Concurrency: any number of writers, one reader, one event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final, TypeAlias

from precall_service.agent.held_bytes import event_size
from precall_service.agent.wake import Wake
from precall_service.domain.events import (
    ConversationEvent,
    ReasoningDelta,
    TextDelta,
    ToolCallArgumentsDelta,
    TurnEvent,
)

BEHIND: Final = 4
"""The events that must wait before pieces are joined."""

Emit = Callable[[TurnEvent], Awaitable[object]]
"""Sends an event of a turn to the client. It waits while the client is too slow to read."""
Offer = Callable[[TurnEvent], None]
"""Sends an event of a turn to the client, or drops it if the client is too slow to read."""
Push = Callable[[TurnEvent], object]
"""Sends an event of a turn to the client, even if the client is too slow to read. The number of
these events has a bound of its own."""

_FEW_BYTES: Final = 8 << 10
"""Events that wait with no more bytes than that are part of what every conversation takes."""


_Waiting: TypeAlias = tuple[str, ConversationEvent]
"""The id of its turn, and an event."""


@dataclass(frozen=True, slots=True)
class NumberedEvent:
    """An event with its number and the id of its turn (empty if it belongs to no turn)."""

    sequence: int
    turn_id: str
    event: ConversationEvent


class Outbox:
    """Holds the events that the transport has not taken yet.

    It is full with `events_max` events, or with events of `bytes_max` in all. Writers wait while it
    is full, so a slow reader slows only its own conversation. `on_bytes` is told how many bytes
    wait or are being sent; 0 if they are few.
    """

    def __init__(
        self,
        events_max: int,
        bytes_max: int,
        *,
        first_sequence: int,
        on_bytes: Callable[[int], None],
    ) -> None:
        self._events_max = events_max
        self._bytes_max = bytes_max
        self._bytes = 0
        self._sending = 0
        """The bytes of the events that were taken last, which are being sent."""
        self._told = 0
        self._on_bytes = on_bytes
        self._next = first_sequence
        self._events: list[_Waiting] = []
        self._filled = Wake()
        self._room: asyncio.Event | None = None
        """Set when there is room again; None until there was none."""
        self._closed = False

    @property
    def _full(self) -> bool:
        return len(self._events) >= self._events_max or self._bytes >= self._bytes_max

    @property
    def closed(self) -> bool:
        """Whether new events are dropped, because no one will take them."""
        return self._closed

    def take_number(self) -> int:
        """Takes the next number: for an event, or for the handshake's answer, which is none."""
        number = self._next
        self._next += 1
        return number

    async def put(self, event: ConversationEvent, turn_id: str = "") -> bool:
        """Adds an event once there is room; returns False if it was dropped after `close`.

        On cancel: the event was not added.
        """
        while self._full and not self._closed:
            self._room = self._room or asyncio.Event()
            self._room.clear()
            await self._room.wait()
        return self._append(event, turn_id)

    def push(self, event: ConversationEvent, turn_id: str = "") -> bool:
        """Adds an event even if there is no room; returns False if it was dropped after `close`.

        Only for events whose number has a bound of its own.
        """
        return self._append(event, turn_id)

    def offer(self, event: ConversationEvent, turn_id: str = "") -> None:
        """Adds an event if there is room, else drops it."""
        if not self._full:
            self._append(event, turn_id)

    async def take(self) -> list[NumberedEvent]:
        """Waits for an event and returns all there are; once closed and empty, an empty list.

        If there are BEHIND or more, pieces of one text that follow each other are joined.
        On cancel: nothing was taken.
        """
        self._sending = 0  # what was taken before has been sent
        self._tell()
        while not self._events and not self._closed:
            await self._filled.wait()
        waiting = _joined(self._events) if len(self._events) >= BEHIND else self._events
        events = [NumberedEvent(self.take_number(), turn_id, event) for turn_id, event in waiting]
        self._events.clear()
        self._sending, self._bytes = self._bytes, 0
        self._wake_writers()
        return events

    def close(self) -> None:
        """Drops new events from now on; the events it holds can still be taken. Idempotent."""
        self._closed = True
        self._filled.set()
        self._wake_writers()

    def _wake_writers(self) -> None:
        if self._room is not None:
            self._room.set()

    def _append(self, event: ConversationEvent, turn_id: str) -> bool:
        if self._closed:
            return False
        self._events.append((turn_id, event))
        self._bytes += event_size(event)
        self._tell()
        self._filled.set()
        return True

    def _tell(self) -> None:
        waiting = self._bytes + self._sending
        told = waiting if waiting > _FEW_BYTES else 0
        if told != self._told:
            self._told = told
            self._on_bytes(told)


def _joined(events: Iterable[_Waiting]) -> Iterator[_Waiting]:
    """Yields the events, with the pieces of one text as one event if they follow each other."""
    for key, group in groupby(enumerate(events), _text_of):
        pieces = [event for _, (_, event) in group]
        yield key[0], pieces[0] if len(pieces) == 1 else _one(pieces)


def _text_of(indexed: tuple[int, _Waiting]) -> tuple[str, object, str]:
    """Returns what the pieces of one text have in common; any other event has it alone."""
    index, (turn_id, event) = indexed
    if isinstance(event, TextDelta | ReasoningDelta):
        return turn_id, type(event), ""
    if isinstance(event, ToolCallArgumentsDelta):
        return turn_id, type(event), event.call_id
    return turn_id, index, ""


def _one(pieces: Sequence[ConversationEvent]) -> ConversationEvent:
    """Returns one event for several pieces of one text."""
    match pieces[0]:
        case TextDelta():
            return TextDelta("".join(e.text for e in pieces if isinstance(e, TextDelta)))
        case ReasoningDelta():
            return ReasoningDelta("".join(e.text for e in pieces if isinstance(e, ReasoningDelta)))
        case ToolCallArgumentsDelta(call_id):
            fragments = (e.json_fragment for e in pieces if isinstance(e, ToolCallArgumentsDelta))
            return ToolCallArgumentsDelta(call_id, "".join(fragments))
        case other:
            raise AssertionError(f"{type(other).__name__} is no piece of a text")
