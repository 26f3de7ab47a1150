"""What one conversation tells its client: numbered, in order, bounded.

Owns: the numbers of events. (The journal that lets a stream be resumed belongs here.)
Never: encodes; the transport turns events into frames.
Concurrency: any number of writers, one reader, one event loop.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass

from precall_service.domain.events import ConversationEvent


@dataclass(frozen=True, slots=True)
class NumberedEvent:
    """An event with its number and the turn that it belongs to (empty: none)."""

    sequence: int
    turn_id: str
    event: ConversationEvent


class Outbox:
    """Holds at most `events_max` events that the client has not been sent.

    A full outbox makes its writers wait: a slow reader slows its own conversation, nobody else.
    """

    def __init__(self, events_max: int, first_sequence: int) -> None:
        self._events_max = events_max
        self._next = first_sequence
        self._events: deque[NumberedEvent] = deque()
        self._filled = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._closed = False

    @property
    def closed(self) -> bool:
        """Whether nobody will take what is put from now on."""
        return self._closed

    def take_number(self) -> int:
        """The next number, for an event that does not pass through here: the handshake's."""
        number = self._next
        self._next += 1
        return number

    async def put(self, event: ConversationEvent, turn_id: str = "") -> None:
        """Adds an event once there is room; after `close` it is dropped.

        On cancel: the event was not added.
        """
        while len(self._events) >= self._events_max and not self._closed:
            self._room.clear()
            await self._room.wait()
        if not self._closed:
            self._append(event, turn_id)

    def offer(self, event: ConversationEvent, turn_id: str = "") -> None:
        """Adds an event that may be lost: it is dropped when there is no room."""
        if len(self._events) < self._events_max and not self._closed:
            self._append(event, turn_id)

    async def take(self) -> list[NumberedEvent]:
        """All events that wait, at least one; an empty list once it is closed and drained.

        On cancel: nothing was taken.
        """
        while not self._events and not self._closed:
            self._filled.clear()
            await self._filled.wait()
        events = list(self._events)
        self._events.clear()
        self._room.set()
        return events

    def close(self) -> None:
        """No more events: what waits is still taken. Idempotent."""
        self._closed = True
        self._filled.set()
        self._room.set()

    def _append(self, event: ConversationEvent, turn_id: str) -> None:
        self._events.append(NumberedEvent(self._next, turn_id, event))
        self._next += 1
        self._filled.set()
