"""For any order of writes, reads and cancels, each event is read once, in order and in bounds."""

from __future__ import annotations

import asyncio
from collections import defaultdict

from hypothesis import given
from hypothesis import strategies as st

from precall_service.agent.outbox import NumberedEvent, Outbox
from precall_service.domain.events import TextDelta

EVENTS_MAX = 3
WRITERS = 4

Act = tuple[str, int]
ACTS = st.tuples(
    st.sampled_from(["write", "offer", "cancel writer", "read", "cancel reader", "turn"]),
    st.integers(0, WRITERS - 1),
)


class Interleaving:
    """Writers that each write one event after the other, and a reader."""

    def __init__(self) -> None:
        self.outbox = Outbox(EVENTS_MAX, 1 << 20, first_sequence=1, on_bytes=lambda _: None)
        self.written: defaultdict[int, list[str]] = defaultdict(list)
        self.writing: dict[int, asyncio.Task[None]] = {}
        self.reading: asyncio.Task[list[NumberedEvent]] | None = None
        self.taken: list[NumberedEvent] = []
        self.count = 0

    def text(self, writer: int) -> str:
        self.count += 1
        return f"{writer}:{self.count}"

    async def write(self, writer: int, text: str) -> None:
        await self.outbox.put(TextDelta(text), str(writer))
        self.written[writer].append(text)

    async def act(self, kind: str, writer: int) -> None:
        match kind:
            case "write":
                if writer not in self.writing or self.writing[writer].done():
                    running = asyncio.create_task(self.write(writer, self.text(writer)))
                    self.writing[writer] = running
            case "offer":
                room = len(self.outbox._events) < EVENTS_MAX  # pyright: ignore[reportPrivateUsage]
                busy = writer in self.writing and not self.writing[writer].done()
                if not busy:
                    text = self.text(writer)
                    self.outbox.offer(TextDelta(text), str(writer))
                    if room:
                        self.written[writer].append(text)
            case "cancel writer":
                if writer in self.writing:
                    self.writing[writer].cancel()
            case "read":
                if self.reading is None or self.reading.done():
                    self.collect()
                    self.reading = asyncio.create_task(self.outbox.take())
            case "cancel reader":
                if self.reading is not None:
                    self.reading.cancel()
            case _:
                await asyncio.sleep(0)

    def collect(self) -> None:
        """Adds the events of the last reading, if it returned any."""
        if self.reading is not None and not self.reading.cancelled():
            events = self.reading.result()
            assert 0 < len(events) <= EVENTS_MAX or self.outbox.closed
            self.taken += events
        self.reading = None

    async def finish(self) -> None:
        """Reads all waiting events, then closes the outbox."""
        for _ in range(2 * WRITERS + 2):
            await asyncio.sleep(0)
            if self.reading is None:
                self.reading = asyncio.create_task(self.outbox.take())
            await asyncio.sleep(0)
            if self.reading.done():
                self.collect()
        self.outbox.close()
        if self.reading is not None:
            await asyncio.wait([self.reading])
            self.collect()
        assert await self.outbox.take() == []
        assert all(writing.done() for writing in self.writing.values())


@given(st.lists(ACTS, max_size=60))
def test_every_event_once_and_in_order(acts: list[Act]) -> None:
    async def play() -> Interleaving:
        interleaving = Interleaving()
        for kind, writer in acts:
            await interleaving.act(kind, writer)
        await interleaving.finish()
        return interleaving

    played = asyncio.run(play())
    assert [event.sequence for event in played.taken] == list(range(1, len(played.taken) + 1))
    for writer in range(WRITERS):
        read = [
            event.event.text
            for event in played.taken
            if event.turn_id == str(writer) and isinstance(event.event, TextDelta)
        ]
        assert read == played.written[writer]
