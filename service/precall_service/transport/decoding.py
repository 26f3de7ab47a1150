"""Decodes what clients send, without stopping the event loop.

A message is decoded in one go, in time that grows with the number of its fields: two million empty
ones fit into 4 MiB and take 0.2 s, and 200 MB of memory. So the fields of a large message are
counted first, a part in each pass of the loop, and there may be only as many as an honest client
needs. A thread would not do: it would keep Python's lock from the loop for 5 ms at a time.

Owns: whose message is next.
Concurrency: one event loop.
"""

from __future__ import annotations

from collections.abc import Generator
from functools import cache
from typing import Final, TypeVar, cast

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message

from precall_service.domain.errors import Reason, ServiceError
from precall_service.fair_turns import FairTurns
from precall_service.transport.intake import Intake

MessageT = TypeVar("MessageT", bound=Message)

AT_ONCE_BYTES_MAX: Final = 128 << 10
"""The size of a message that is decoded without a count. It takes 6 ms in the worst case."""
FIELDS_MAX: Final = 100_000
"""The most fields of a message, with those of the messages in it. A history with as many messages
and calls as it may have stays far below; decoding that many takes 10 ms."""
COUNT_FIELDS: Final = 2_000
"""How many are counted in one pass of the loop, which takes about 1 ms."""

_VARINT: Final = 0  # https://protobuf.dev/programming-guides/encoding
_FIXED64: Final = 1
_BYTES: Final = 2
_FIXED32: Final = 5


class Decoder:
    """Decodes messages: one in each pass of the event loop, large ones one at a time."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake
        self._large = FairTurns()

    async def decoded(self, data: bytes, kind: type[MessageT], *, whose: str) -> MessageT:
        """Returns the message that the bytes are. `whose` is what is treated fairly.

        Raises:
            DecodeError: they are none.
            ServiceError: TOO_LARGE if it has more fields than any message may have.
        """
        if len(data) <= AT_ONCE_BYTES_MAX:
            await self._intake.turn(whose)
            return kind.FromString(data)
        async with self._large.of(whose):
            for fields in count_fields(data, cast("Descriptor", kind.DESCRIPTOR)):
                if fields > FIELDS_MAX:
                    raise ServiceError(
                        Reason.TOO_LARGE,
                        f"the message has more than {FIELDS_MAX} fields, counting those of the "
                        "messages in it, which is the limit: send less, or split it up",
                        metadata={"limit": str(FIELDS_MAX)},
                    )
                await self._intake.turn(whose)
            return kind.FromString(data)


def count_fields(data: bytes, descriptor: Descriptor) -> Generator[int]:
    """Counts the fields of an encoded message of this type, with those of the messages in it.

    Yields the number so far after every COUNT_FIELDS, and at the end. Bytes that are no message
    count as far as they can be read: decoding says what is wrong.
    """
    fields, pause_at = 0, COUNT_FIELDS
    rest = [(0, len(data), descriptor)]
    while rest:
        at, end, of = rest.pop()
        messages = _messages_in(of)
        while at < end:
            fields += 1
            if fields == pause_at:
                pause_at += COUNT_FIELDS
                yield fields
            tag, at = _varint(data, at)
            kind = tag & 7
            if kind == _BYTES:
                size, at = _varint(data, at)
                inner = messages.get(tag >> 3)
                if inner is not None:
                    rest.append((at, min(at + size, end), inner))
                at += size
            elif kind == _VARINT:
                _, at = _varint(data, at)
            elif kind == _FIXED64:
                at += 8
            elif kind == _FIXED32:
                at += 4
            # The marks of a group have no value. Nothing in the contract has groups.
    yield fields


@cache
def _messages_in(descriptor: Descriptor) -> dict[int, Descriptor]:
    """Returns the types of the fields that are messages, by number."""
    return {
        field.number: field.message_type
        for field in descriptor.fields
        if field.message_type is not None
    }


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Returns the number at a position, and the position after it; past the end if it is cut."""
    value = shift = 0
    while at < len(data):
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            break
    return 0, len(data)
