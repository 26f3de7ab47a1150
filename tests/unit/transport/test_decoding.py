"""Decoding what clients send: large messages in turn, and none with far too many fields."""

from __future__ import annotations

import asyncio

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from precall.v1 import agent_pb2, tool_pb2, turn_pb2
from precall_service.domain.errors import Reason, ServiceError
from precall_service.transport.decoding import (
    AT_ONCE_BYTES_MAX,
    COUNT_FIELDS,
    FIELDS_MAX,
    Decoder,
    count_fields,
)
from precall_service.transport.intake import Intake

Frame = agent_pb2.ConverseRequest
FRAME = Frame.DESCRIPTOR


def fields_in(data: bytes) -> int:
    return list(count_fields(data, FRAME))[-1]


def opening(messages: int, text: str = "") -> bytes:
    """A handshake with a history of so many messages, each with one field."""
    history = [agent_pb2.Message(reasoning=text or "r") for _ in range(messages)]
    return Frame(sequence=1, open=agent_pb2.OpenConversation(history=history)).SerializeToString()


def empty_messages(count: int) -> bytes:
    """A handshake with a history of so many empty messages, of two bytes each."""
    history = [agent_pb2.Message()] * count
    return Frame(sequence=1, open=agent_pb2.OpenConversation(history=history)).SerializeToString()


def test_fields_are_counted_with_those_of_the_messages_in_it() -> None:
    data = opening(messages=10)  # the number, the handshake, ten messages with a field each
    assert fields_in(data) == 22


def test_texts_are_no_messages_whatever_they_hold() -> None:
    hidden = tool_pb2.RegisterTools(tools=[tool_pb2.Tool()] * 50).SerializeToString().decode()
    frame = Frame(sequence=2, cancel_turn=turn_pb2.CancelTurn(turn_id=hidden))
    assert fields_in(frame.SerializeToString()) == 3


def test_unknown_fields_count_too() -> None:
    assert fields_in(b"x" * 1000) == 500


@given(st.binary(max_size=300))
def test_any_bytes_can_be_counted(data: bytes) -> None:
    assert fields_in(data) <= len(data)


def test_they_are_counted_in_parts() -> None:
    assert list(count_fields(b"x" * (5 * COUNT_FIELDS + 2), FRAME)) == [
        COUNT_FIELDS,
        2 * COUNT_FIELDS,
        5 * COUNT_FIELDS // 2 + 1,
    ]


async def test_a_message_is_decoded_at_once_or_in_turn() -> None:
    decoder = Decoder(Intake())
    for data in (opening(2), opening(3, text="x" * AT_ONCE_BYTES_MAX)):
        assert (await decoder.decoded(data, Frame, whose="ann")).SerializeToString() == data


async def test_large_messages_are_decoded_in_different_passes_of_the_loop() -> None:
    decoder, passes = Decoder(Intake()), 0
    data = opening(1, text="x" * AT_ONCE_BYTES_MAX)
    decoded_in: list[int] = []

    async def count() -> None:
        nonlocal passes
        while True:
            passes += 1
            await asyncio.sleep(0)

    async def decode() -> None:
        await decoder.decoded(data, Frame, whose="ann")
        decoded_in.append(passes)

    counting = asyncio.create_task(count())
    await asyncio.gather(*(decode() for _ in range(8)))
    counting.cancel()
    assert len(set(decoded_in)) == len(decoded_in)


async def test_a_message_with_far_too_many_fields_is_refused_before_it_is_decoded() -> None:
    with pytest.raises(ServiceError) as refused:
        await Decoder(Intake()).decoded(empty_messages(FIELDS_MAX), Frame, whose="ann")
    assert refused.value.reason is Reason.TOO_LARGE
    assert refused.value.metadata == {"limit": str(FIELDS_MAX)}


@pytest.mark.parametrize("size", [100, AT_ONCE_BYTES_MAX + 1], ids=["small", "large"])
async def test_bytes_that_are_no_message_are_told_by_the_decoder(size: int) -> None:
    with pytest.raises(DecodeError):
        await Decoder(Intake()).decoded(b"\xff" * size, Frame, whose="ann")
