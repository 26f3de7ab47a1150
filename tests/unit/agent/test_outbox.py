"""The events of a conversation: in order, numbered, bounded."""

from __future__ import annotations

import asyncio

from precall_service.agent.outbox import BEHIND, NumberedEvent, Outbox
from precall_service.domain.events import (
    GoAway,
    ReasoningDelta,
    TextDelta,
    ToolCallArgumentsDelta,
)
from tests.support.clock import settle

KIB = 1 << 10


def outbox(
    events_max: int = 2, bytes_max: int = 1 << 20, *, told: list[int] | None = None
) -> Outbox:
    sizes: list[int] = [] if told is None else told
    return Outbox(events_max, bytes_max, first_sequence=1, on_bytes=sizes.append)


def read(taken: list[NumberedEvent]) -> list[tuple[int, str]]:
    """Returns the numbers and texts of events that were taken."""
    return [(n.sequence, n.event.text) for n in taken if isinstance(n.event, TextDelta)]


async def test_events_are_numbered_in_order() -> None:
    box = outbox()
    await box.put(TextDelta("a"), "turn")
    await box.put(GoAway(1.0, "bye"))
    assert await box.take() == [
        NumberedEvent(1, "turn", TextDelta("a")),
        NumberedEvent(2, "", GoAway(1.0, "bye")),
    ]
    await box.put(TextDelta("b"), "turn")
    assert await box.take() == [NumberedEvent(3, "turn", TextDelta("b"))]


async def test_a_number_can_be_taken_for_the_handshake() -> None:
    box = outbox()
    assert box.take_number() == 1
    await box.put(TextDelta("a"))
    assert read(await box.take()) == [(2, "a")]


async def test_a_full_outbox_makes_its_writer_wait() -> None:
    box = outbox(events_max=2)
    await box.put(TextDelta("a"))
    await box.put(TextDelta("b"))
    writing = asyncio.ensure_future(box.put(TextDelta("c")))
    await settle()
    assert not writing.done()
    assert read(await box.take()) == [(1, "a"), (2, "b")]
    await writing
    assert read(await box.take()) == [(3, "c")]


async def test_a_read_lets_in_only_as_many_events_as_there_is_room_for() -> None:
    box = outbox(events_max=2)
    writers = [asyncio.create_task(box.put(TextDelta(str(number)))) for number in range(5)]
    await settle()
    assert read(await box.take()) == [(1, "0"), (2, "1")]
    await settle()
    assert sum(writer.done() for writer in writers) == 4
    assert read(await box.take()) == [(3, "2"), (4, "3")]
    await settle()
    assert read(await box.take()) == [(5, "4")]


async def test_an_offer_is_dropped_when_there_is_no_room() -> None:
    box = outbox(events_max=1)
    box.offer(TextDelta("a"))
    box.offer(TextDelta("lost"))
    assert read(await box.take()) == [(1, "a")]
    box.offer(TextDelta("b"))
    assert read(await box.take()) == [(2, "b")], "a dropped event takes no number"


async def test_a_push_does_not_need_room() -> None:
    box = outbox(events_max=1)
    await box.put(TextDelta("a"))
    writing = asyncio.create_task(box.put(TextDelta("c")))
    assert box.push(TextDelta("b"))
    assert read(await box.take()) == [(1, "a"), (2, "b")]
    assert await writing
    assert read(await box.take()) == [(3, "c")]


async def test_taking_waits_for_an_event() -> None:
    box = outbox()
    taking = asyncio.ensure_future(box.take())
    await settle()
    assert not taking.done()
    await box.put(TextDelta("a"))
    assert read(await taking) == [(1, "a")]


async def test_events_can_still_be_taken_after_close() -> None:
    box = outbox()
    await box.put(TextDelta("a"))
    box.close()
    box.close()
    assert box.closed
    assert read(await box.take()) == [(1, "a")]
    assert await box.take() == []
    assert await box.take() == []


async def test_after_close_nothing_is_added() -> None:
    box = outbox()
    assert await box.put(TextDelta("a"))
    box.close()
    assert not await box.put(TextDelta("b"))
    assert not box.push(TextDelta("c"))
    box.offer(TextDelta("d"))
    assert read(await box.take()) == [(1, "a")]
    assert await box.take() == []


async def test_close_wakes_a_reader() -> None:
    box = outbox()
    taking = asyncio.ensure_future(box.take())
    await settle()
    box.close()
    assert await taking == []


async def test_close_wakes_writers_and_drops_their_events() -> None:
    box = outbox(events_max=1)
    await box.put(TextDelta("a"))
    writers = [asyncio.create_task(box.put(TextDelta("late"))) for _ in range(3)]
    await settle()
    box.close()
    assert await asyncio.gather(*writers) == [False, False, False]
    assert read(await box.take()) == [(1, "a")]
    assert await box.take() == []


async def test_a_cancelled_writer_added_nothing() -> None:
    box = outbox(events_max=1)
    await box.put(TextDelta("a"))
    writing = asyncio.create_task(box.put(TextDelta("b")))
    await settle()
    writing.cancel()
    await asyncio.wait([writing])
    assert read(await box.take()) == [(1, "a")]
    await box.put(TextDelta("c"))
    assert read(await box.take()) == [(2, "c")]


async def test_a_writer_cancelled_as_room_is_made_added_nothing() -> None:
    box = outbox(events_max=1)
    await box.put(TextDelta("a"))
    writing, other = (asyncio.create_task(box.put(TextDelta(text))) for text in "bc")
    await settle()
    assert read(await box.take()) == [(1, "a")]
    writing.cancel()
    await settle()
    assert writing.cancelled()
    assert other.done()
    assert read(await box.take()) == [(2, "c")]


async def test_a_cancelled_reader_took_nothing() -> None:
    box = outbox()
    taking = asyncio.create_task(box.take())
    await settle()
    await box.put(TextDelta("a"))
    taking.cancel()
    await asyncio.wait([taking])
    assert taking.cancelled()
    assert read(await box.take()) == [(1, "a")]


async def test_an_outbox_is_full_with_few_events_that_are_large() -> None:
    box = outbox(events_max=100, bytes_max=10 * KIB)
    await box.put(TextDelta("x" * 10 * KIB))
    writing = asyncio.ensure_future(box.put(TextDelta("y")))
    box.offer(GoAway(1.0, "this one is dropped"))
    await settle()
    assert not writing.done()
    assert box.push(TextDelta("z")), "what has a bound of its own is taken all the same"
    assert [text for _, text in read(await box.take())] == ["x" * 10 * KIB, "z"]
    await writing
    assert [text for _, text in read(await box.take())] == ["y"]


async def test_bytes_that_wait_are_told_until_they_are_sent() -> None:
    told: list[int] = []
    box = outbox(events_max=100, told=told)
    await box.put(TextDelta("few"))
    assert not told, "an ordinary event costs no more than the sum"
    await box.put(TextDelta("x" * 100 * KIB))
    [waiting] = told
    assert 100 * KIB < waiting < 101 * KIB
    await box.take()
    assert told[-1] == waiting, "they are being sent"
    more = asyncio.ensure_future(box.take())
    await settle()
    assert told == [waiting, 0]
    box.close()
    assert await more == []


# What a transport that is behind gets.


async def test_pieces_of_one_text_are_joined_for_a_transport_that_is_behind() -> None:
    box = outbox(events_max=16)
    for text in "abcd":
        await box.put(TextDelta(text), "turn")
    await box.put(ReasoningDelta("e"), "turn")
    await box.put(ReasoningDelta("f"), "turn")
    await box.put(ToolCallArgumentsDelta("call-1", "{"), "turn")
    await box.put(ToolCallArgumentsDelta("call-1", "}"), "turn")
    await box.put(ToolCallArgumentsDelta("call-2", "{}"), "turn")
    await box.put(TextDelta("g"), "turn")
    await box.put(TextDelta("h"), "other turn")
    assert await box.take() == [
        NumberedEvent(1, "turn", TextDelta("abcd")),
        NumberedEvent(2, "turn", ReasoningDelta("ef")),
        NumberedEvent(3, "turn", ToolCallArgumentsDelta("call-1", "{}")),
        NumberedEvent(4, "turn", ToolCallArgumentsDelta("call-2", "{}")),
        NumberedEvent(5, "turn", TextDelta("g")),
        NumberedEvent(6, "other turn", TextDelta("h")),
    ]
    await box.put(TextDelta("i"), "turn")
    assert await box.take() == [NumberedEvent(7, "turn", TextDelta("i"))]


async def test_equal_events_that_are_no_pieces_stay_apart() -> None:
    box = outbox(events_max=2 * BEHIND)
    event = GoAway(1.0, "bye")
    for _ in range(BEHIND):
        await box.put(event)
    assert [numbered.event for numbered in await box.take()] == [event] * BEHIND


async def test_joined_pieces_count_one_by_one_until_they_are_taken() -> None:
    box = outbox(events_max=BEHIND)
    for text in "abcd":
        await box.put(TextDelta(text))
    writing = asyncio.create_task(box.put(TextDelta("e")))
    await settle()
    assert not writing.done(), "a slow reader still slows its turn"
    assert read(await box.take()) == [(1, "abcd")]
    assert await writing
