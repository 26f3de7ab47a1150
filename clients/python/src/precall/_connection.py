"""The connection of a client to its server: one channel in the event loop of its first use.

Owns: the channel, the calls in flight, and the pool that synchronous handlers run in.
Concurrency: used from one event loop, or from another one once the first is closed.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias, TypeVar

import grpc
import grpc.aio

from precall import _errors
from precall._options import ClientOptions, channel_options
from precall._pool import HandlerPool
from precall._scope import being_cancelled

Metadata: TypeAlias = tuple[tuple[str, str], ...]

Q = TypeVar("Q")
R = TypeVar("R")


@dataclass(slots=True, eq=False)
class Connected:
    """The resources of a client in the event loop in which it is used."""

    loop: asyncio.AbstractEventLoop
    channel: grpc.aio.Channel
    pool: HandlerPool
    calls: weakref.WeakSet[grpc.aio.Call] = field(default_factory=weakref.WeakSet[grpc.aio.Call])
    """Calls that may be in flight. Closing the channel does not end all of them."""
    closed: bool = False
    """Whether the client was closed. A call can also be cancelled by the server."""

    async def close(self) -> None:
        """Cancels the calls in flight and closes the channel."""
        self.closed = True
        for call in list(self.calls):
            call.cancel()
        self.pool.close()
        await self.channel.close()


class Connection:
    """Connects when it is first used, and again after it was closed."""

    def __init__(
        self,
        address: str,
        *,
        credentials: grpc.ChannelCredentials | None,
        metadata: Metadata,
        options: ClientOptions,
        on_new_loop: Callable[[], None],
    ) -> None:
        """Makes a connection.

        Args:
            address: Where the server listens.
            credentials: For TLS; None: plain text.
            metadata: Sent with every call.
            options: Timeouts and limits.
            on_new_loop: Called when the loop of the last use is found closed.
        """
        self.address = address
        self.metadata = metadata
        self.options = options
        self._credentials = credentials
        self._on_new_loop = on_new_loop
        self._connected: Connected | None = None

    def here(self) -> Connected:
        """Returns the resources in the running event loop; makes them if the last loop is closed.

        Raises:
            RuntimeError: The client is in use in another event loop.
        """
        loop = asyncio.get_running_loop()
        if (connected := self._connected) is not None:
            if connected.loop is loop:
                return connected
            if not connected.loop.is_closed():
                raise RuntimeError(
                    "this client belongs to another event loop: make one client per loop"
                )
            connected.pool.close()
            self._on_new_loop()
        self._connected = Connected(loop, self._channel(), HandlerPool(self.options))
        return self._connected

    def take(self) -> Connected | None:
        """Returns the resources for closing them, and forgets them; None if there are none.

        Raises:
            RuntimeError: The client is in use in another event loop.
        """
        if self._connected is None:
            return None
        connected, self._connected = self.here(), None
        return connected

    async def ask(
        self,
        method: Callable[[grpc.aio.Channel], grpc.aio.UnaryUnaryMultiCallable[Q, R]],
        request: Q,
    ) -> R:
        """Returns the server's answer to a request.

        Args:
            method: Returns the method to call, on a channel.
            request: What to ask.

        Raises:
            ConnectError: No precall server could be reached, it did not answer in time, or the
                client was closed.
            PrecallError: The server refused, with its reason.
            RuntimeError: The client belongs to another event loop.

        On cancel: the call is cancelled. The server may have done what was asked.
        """
        timeout_s = self.options.answer_timeout_s
        connected = self.here()
        call = method(connected.channel)(request, timeout=timeout_s, metadata=self.metadata)
        connected.calls.add(call)
        try:
            return await call
        except grpc.aio.AioRpcError as error:
            refused = _errors.unreachable(self.address, error)
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED and not refused.reason:
                raise _errors.no_answer(self.address, timeout_s) from None
            raise refused from None
        except asyncio.CancelledError:
            if being_cancelled():
                raise
            raise await _errors.cancelled(self.address, call, closed=connected.closed) from None

    def _channel(self) -> grpc.aio.Channel:
        arguments = channel_options(self.options, self.address)
        if self._credentials is None:
            return grpc.aio.insecure_channel(self.address, arguments)
        return grpc.aio.secure_channel(self.address, self._credentials, arguments)
