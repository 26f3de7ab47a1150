"""A client that speaks HTTP/2 by hand, so that it can do what no gRPC client would.

It keeps to flow control, because a server may end a connection that does not: an attacker would
keep to it as well. It gives the server no window to answer in, unless it is told to read.

Owns: connections without encryption. What arrives is kept as frames, and never decoded.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final, Self

from precall.v1 import agent_pb2

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RESET, SETTINGS, PUSH, PING, GO_AWAY, WINDOW_UPDATE, CONTINUATION = range(
    10
)
ACK, END_STREAM, END_HEADERS = 1, 1, 4
_MAX_CONCURRENT_STREAMS, _INITIAL_WINDOW, _MAX_FRAME = 3, 4, 5
_WINDOW_DEFAULT: Final = 65_535
_FRAME_MAX: Final = 16_384
WAIT_S: Final = 10.0

CONVERSE: Final = "/precall.v1.AgentService/Converse"


@dataclass(slots=True)
class Stream:
    """What the client knows of a stream."""

    window: int
    """How many bytes it may still send."""
    sent: int = 0
    data: bytearray = field(default_factory=bytearray)
    ended: bool = False
    """The server has sent its trailers, or has reset the stream."""
    reset: int | None = None
    """The code of the server's RST_STREAM."""


class Connection(asyncio.Protocol):
    """One connection. `window` and `initial_window` are what the server allows to send."""

    def __init__(self, read_window: int) -> None:
        self.streams: dict[int, Stream] = {}
        self.window: int = _WINDOW_DEFAULT
        self.initial_window: int = _WINDOW_DEFAULT
        self.streams_max: int | None = None
        self.gone_away = b""
        self.lost = asyncio.Event()
        self._read_window = read_window
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._next = 1
        self._changed = asyncio.Event()
        self._settled = asyncio.Event()

    @classmethod
    async def connect(cls, address: str, *, read_window: int = 0) -> Self:
        """Connects to `host:port`; the server may send `read_window` bytes on each stream."""
        host, _, port = address.rpartition(":")
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(lambda: cls(read_window), host, int(port))
        await asyncio.wait_for(connection._settled.wait(), WAIT_S)
        return connection

    def open(self, path: str = CONVERSE, *headers: tuple[str, str]) -> int:
        """Begins a call; returns the id of its stream."""
        number, self._next = self._next, self._next + 2
        self.streams[number] = Stream(self.initial_window)
        self.frame(HEADERS, END_HEADERS, number, header_block(path, *headers))
        return number

    def send(self, number: int, data: bytes) -> int:
        """Sends as much of the data as the windows allow; returns how many bytes that was."""
        stream = self.streams[number]
        sent = 0
        while sent < len(data):
            room = min(len(data) - sent, stream.window, self.window, _FRAME_MAX)
            if room <= 0 or stream.ended or self.lost.is_set():
                break
            self.frame(DATA, 0, number, data[sent : sent + room])
            stream.window -= room
            self.window -= room
            sent += room
        stream.sent += sent
        return sent

    def reset(self, number: int, code: int = 8) -> None:
        """Resets a stream."""
        self.frame(RESET, 0, number, struct.pack(">I", code))
        self.streams.pop(number, None)

    def frame(self, kind: int, flags: int, number: int, payload: bytes = b"") -> None:
        """Sends one frame, whatever it is."""
        self.raw(
            len(payload).to_bytes(3, "big") + struct.pack(">BBI", kind, flags, number) + payload
        )

    def raw(self, data: bytes) -> None:
        """Sends bytes."""
        if self._transport is not None and not self.lost.is_set():
            self._transport.write(data)

    async def changed(self, timeout_s: float = WAIT_S) -> bool:
        """Returns True at the next frame of the server; False if none comes in this time."""
        self._changed.clear()
        try:
            await asyncio.wait_for(self._changed.wait(), timeout_s)
        except TimeoutError:
            return False
        return True

    def close(self) -> None:
        """Ends the connection."""
        if self._transport is not None:
            self._transport.abort()

    # Called by asyncio.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self.raw(PREFACE)
        self.frame(SETTINGS, 0, 0, struct.pack(">HI", _INITIAL_WINDOW, self._read_window))
        if self._read_window:  # the connection has a window, too
            self.frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 2**31 - 1 - _WINDOW_DEFAULT))

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while len(self._buffer) >= 9:
            length = int.from_bytes(self._buffer[:3], "big")
            if len(self._buffer) < 9 + length:
                break
            kind, flags, number = struct.unpack(">BBI", self._buffer[3:9])
            payload = bytes(self._buffer[9 : 9 + length])
            del self._buffer[: 9 + length]
            self._take(kind, flags, number, payload)
        self._changed.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set()
        self._settled.set()
        self._changed.set()

    def _take(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        stream = self.streams.get(number)
        match kind:
            case _ if kind == SETTINGS and not flags & ACK:
                self._configure(payload)
                self.frame(SETTINGS, ACK, 0)
                self._settled.set()
            case _ if kind == PING and not flags & ACK:
                self.frame(PING, ACK, 0, payload)
            case _ if kind == GO_AWAY:
                self.gone_away = payload
            case _ if kind == WINDOW_UPDATE:
                more = int.from_bytes(payload, "big")
                if number == 0:
                    self.window += more
                elif stream is not None:
                    stream.window += more
            case _ if kind == DATA and stream is not None:
                stream.data += payload
                stream.ended = stream.ended or bool(flags & END_STREAM)
            case _ if kind == HEADERS and stream is not None:
                stream.ended = stream.ended or bool(flags & END_STREAM)
            case _ if kind == RESET and stream is not None:
                stream.ended, stream.reset = True, int.from_bytes(payload, "big")
            case _:
                pass

    def _configure(self, payload: bytes) -> None:
        for at in range(0, len(payload), 6):
            name = int.from_bytes(payload[at : at + 2], "big")
            value = int.from_bytes(payload[at + 2 : at + 6], "big")
            if name == _INITIAL_WINDOW:
                change, self.initial_window = value - self.initial_window, value
                for stream in self.streams.values():
                    stream.window += change
            elif name == _MAX_CONCURRENT_STREAMS:
                self.streams_max = value


def header_block(path: str, *headers: tuple[str, str]) -> bytes:
    """The headers of a call, in the simplest form of HPACK: not indexed and not compressed."""
    return b"".join(
        b"\x00" + _string(name) + _string(value)
        for name, value in (
            (":method", "POST"),
            (":scheme", "http"),
            (":path", path),
            (":authority", "localhost"),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
            *headers,
        )
    )


def message(payload: bytes, *, announced: int | None = None) -> bytes:
    """A message of gRPC. `announced` is the length that it claims to have."""
    return struct.pack(">BI", 0, len(payload) if announced is None else announced) + payload


def _string(text: str) -> bytes:
    encoded = text.encode()
    if len(encoded) < 127:
        return bytes([len(encoded)]) + encoded
    rest, length = len(encoded) - 127, bytearray([127])
    while rest >= 128:
        length.append(rest % 128 + 128)
        rest //= 128
    length.append(rest)
    return bytes(length) + encoded


OPENING: Final = message(
    agent_pb2.ConverseRequest(sequence=1, open=agent_pb2.OpenConversation()).SerializeToString()
)
"""What opens a conversation."""
OPENED_S: Final = 30.0


@asynccontextmanager
async def conversations(address: str, count: int) -> AsyncGenerator[Connection]:
    """A connection on which the server has opened so many conversations; the end cuts them off."""
    connection = await Connection.connect(address, read_window=4096)
    try:
        for _ in range(count):
            connection.send(connection.open(), OPENING)
        async with asyncio.timeout(OPENED_S):
            while not all(stream.data for stream in connection.streams.values()):
                await connection.changed()
        yield connection
    finally:
        connection.close()
