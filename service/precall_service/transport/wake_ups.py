"""Has the event loop take all that gRPC has for it at once, however often gRPC has woken it.

A thread of gRPC writes one byte to a socket for each event, such as a message that has come or was
sent. The loop takes all events there are when it wakes, but grpc.aio reads only one byte then. So
after a burst, the loop wakes hundreds of times for nothing. Worse, the socket holds no more than
278 of these bytes: the thread then waits until three quarters of them were read, one in each pass
of the loop, and meanwhile no event of any stream arrives.

This leans on how grpcio is built, which is pinned. A test fails if that changes.
"""

from __future__ import annotations

import socket
import threading
from typing import Final

import grpc.aio

_BYTES_MAX: Final = 4096


class WakeUps(socket.socket):
    """The loop's end of the socket."""

    def recv(self, _count: int, flags: int = 0, /) -> bytes:
        """Reads all bytes that have come. The event of each has come before it."""
        return super().recv(_BYTES_MAX, flags)


def take_events_at_once() -> None:
    """Starts gRPC's thread with such a socket; does nothing if the thread runs already."""
    plain_pair, here = socket.socketpair, threading.get_ident()

    def pair() -> tuple[socket.socket, socket.socket]:
        read, write = plain_pair()
        if threading.get_ident() != here:
            return read, write
        return WakeUps(read.family, read.type, read.proto, fileno=read.detach()), write

    socket.socketpair = pair
    try:
        grpc.aio.init_grpc_aio()
    finally:
        socket.socketpair = plain_pair
