"""Has the event loop take what gRPC has for it in one go, and no more than a pass can do.

A thread of gRPC writes one byte to a socket for each event, such as a message that has come or was
sent. The loop takes all events there are when it wakes, but grpc.aio reads only one byte then. So
after a burst, the loop wakes hundreds of times for nothing. Worse, the socket holds no more than
278 of these bytes: the thread then waits until three quarters of them were read, one in each pass
of the loop, and meanwhile no event of any stream arrives. So all bytes are read at once.

The bytes are also how events are paced: the thread waits when the socket is full. The loop takes
all events there are and runs what waits for them before anything else has its turn, so a burst, as
when hundreds of streams end in one moment, makes a long pass. The socket is therefore made to hold
the bytes of EVENTS_MAX events, and a burst comes in so many passes.

This leans on how grpcio is built, which is pinned. A test fails if that changes.
"""

from __future__ import annotations

import socket
import threading
from typing import Final

import grpc.aio

EVENTS_MAX: Final = 32
"""About how many events a pass of the loop takes. Fewer would make those of others wait for longer
behind a burst, for gRPC has them in one queue."""

_BYTES_MAX: Final = 4096
_EVENT_BUFFER_BYTES: Final = 768
"""What Linux counts for one byte in a socket's buffer."""


class WakeUps(socket.socket):
    """The loop's end of the sockets."""

    def recv(self, _count: int, flags: int = 0, /) -> bytes:
        """Reads all bytes that have come. The event of each has come before it."""
        return super().recv(_BYTES_MAX, flags)


def pace_events() -> None:
    """Starts gRPC's thread with such sockets; does nothing if the thread runs already."""
    plain_pair, here = socket.socketpair, threading.get_ident()

    def pair() -> tuple[socket.socket, socket.socket]:
        read, write = plain_pair()
        if threading.get_ident() != here:
            return read, write
        # Linux doubles the size that is asked for.
        write.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, EVENTS_MAX * _EVENT_BUFFER_BYTES // 2)
        return WakeUps(read.family, read.type, read.proto, fileno=read.detach()), write

    socket.socketpair = pair
    try:
        grpc.aio.init_grpc_aio()
    finally:
        socket.socketpair = plain_pair
