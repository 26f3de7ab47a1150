"""Reads gRPC streams with as little work as Python allows, so that the server is the bottleneck.

An ordinary gRPC client spends as much on a message as the server that wrote it. This one opens a
window of 2 GiB and only counts messages, so it needs a small part of a core where an ordinary
client would need all of it.

Owns: HTTP/2 connections without encryption, each with calls of one method.
Never: decodes headers or messages. A call that ends is an error.
"""

from __future__ import annotations

import asyncio
import struct
from typing import Self

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_TIMEOUT_S = 60.0
_WINDOW_MAX = 2**31 - 1
_WINDOW_DEFAULT = 65_535
_DATA, _HEADERS, _RESET, _SETTINGS, _PING, _GO_AWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_ACK, _END_STREAM, _END_HEADERS = 1, 1, 4
_INITIAL_WINDOW, _MAX_FRAME = 4, 5
_CANCEL = 8


class Reader(asyncio.Protocol):
    """One connection. A message is counted when its last byte has arrived.

    A subclass may count a message as several, or note it, in `arrived`.
    """

    def __init__(self) -> None:
        self._messages = 0
        self._wanted = 0
        self._reached = asyncio.Event()
        self._failed: str | None = None
        self._buffer = b""
        self._pending: dict[int, bytes] = {}
        self._next_stream = 1
        self._sent_bytes = 0
        self._transport: asyncio.Transport | None = None

    @classmethod
    async def connect(cls, address: str) -> Self:
        """Connects to `host:port`."""
        host, _, port = address.rpartition(":")
        _, reader = await asyncio.get_running_loop().create_connection(cls, host, int(port))
        return reader

    def open(self, calls: int, authority: str, path: str) -> list[int]:
        """Begins this number of calls of one method; returns their stream ids."""
        streams = [self._next_stream + 2 * index for index in range(calls)]
        self._next_stream += 2 * calls
        block = b"".join(
            _field(name, value)
            for name, value in (
                (":method", "POST"),
                (":scheme", "http"),
                (":path", path),
                (":authority", authority),
                ("content-type", "application/grpc"),
                ("te", "trailers"),
            )
        )
        for stream in streams:
            self._pending[stream] = b""
            self._write(_frame(_HEADERS, _END_HEADERS, stream, block))
        return streams

    def send(self, stream: int, message: bytes) -> None:
        """Sends a message. All messages of a connection must fit into its initial window."""
        self._sent_bytes += len(message) + 5
        assert self._sent_bytes < _WINDOW_DEFAULT, "this client has no flow control"
        self._write(_frame(_DATA, 0, stream, struct.pack(">BI", 0, len(message)) + message))

    def cancel(self, stream: int) -> None:
        """Ends a call."""
        self._write(_frame(_RESET, 0, stream, struct.pack(">I", _CANCEL)))

    async def read(self, messages: int) -> None:
        """Returns when this number of further messages has arrived, over all calls.

        Raises:
            ConnectionError: A call or the connection ended, or the messages did not arrive in time.
        """
        self._wanted += messages
        self._reached.clear()
        self._check()
        try:
            await asyncio.wait_for(self._reached.wait(), _TIMEOUT_S)
        except TimeoutError:
            missing = self._wanted - self._messages
            raise ConnectionError(f"{missing} of {messages} messages did not come") from None
        if self._failed is not None:
            raise ConnectionError(self._failed)

    def arrived(self, stream: int, message: bytes) -> int:
        """Returns as how many messages one counts that has arrived on this stream."""
        return 1

    def close(self) -> None:
        """Ends the connection."""
        if self._transport is not None:
            self._transport.close()

    # Called by asyncio.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        settings = struct.pack(">HIHI", _INITIAL_WINDOW, _WINDOW_MAX, _MAX_FRAME, 1 << 20)
        window = struct.pack(">I", _WINDOW_MAX - _WINDOW_DEFAULT)
        self._write(_PREFACE + _frame(_SETTINGS, 0, 0, settings))
        self._write(_frame(_WINDOW_UPDATE, 0, 0, window))

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer + data if self._buffer else data
        at, end = 0, len(buffer)
        while end - at >= 9:
            length = int.from_bytes(buffer[at : at + 3], "big")
            if end - at < 9 + length:
                break
            kind, flags = buffer[at + 3], buffer[at + 4]
            stream = int.from_bytes(buffer[at + 5 : at + 9], "big")
            payload = buffer[at + 9 : at + 9 + length]
            at += 9 + length
            if kind == _DATA:
                self._count(stream, payload)
            else:
                self._control(kind, flags, stream, payload)
        self._buffer = buffer[at:]
        self._check()

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(f"the connection ended: {exc}")

    def _control(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == _SETTINGS and not flags & _ACK:
            self._write(_frame(_SETTINGS, _ACK, 0, b""))
        elif kind == _PING and not flags & _ACK:
            self._write(_frame(_PING, _ACK, 0, payload))
        elif kind in (_RESET, _GO_AWAY) or (kind == _HEADERS and flags & _END_STREAM):
            self._fail(f"call {stream} ended early")

    def _count(self, stream: int, payload: bytes) -> None:
        data = self._pending[stream] + payload
        at, end = 0, len(data)
        while end - at >= 5:
            length = int.from_bytes(data[at + 1 : at + 5], "big")
            if end - at < 5 + length:
                break
            self._messages += self.arrived(stream, data[at + 5 : at + 5 + length])
            at += 5 + length
        self._pending[stream] = data[at:]

    def _check(self) -> None:
        if self._messages >= self._wanted:
            self._reached.set()

    def _fail(self, why: str) -> None:
        self._failed = self._failed or why
        self._reached.set()

    def _write(self, data: bytes) -> None:
        assert self._transport is not None
        self._transport.write(data)


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + struct.pack(">BBI", kind, flags, stream) + payload


def _field(name: str, value: str) -> bytes:
    """A header in the simplest form of HPACK: not indexed and not compressed."""
    encoded_name, encoded_value = name.encode(), value.encode()
    assert max(len(encoded_name), len(encoded_value)) < 127, "longer headers need another encoding"
    return (
        b"\x00"
        + bytes([len(encoded_name)])
        + encoded_name
        + bytes([len(encoded_value)])
        + encoded_value
    )
