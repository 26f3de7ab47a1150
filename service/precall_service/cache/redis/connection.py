"""Connections to a Redis server by URL, and channels, which share one among many callers.

An idle channel sends a command at once. Commands that come while it waits for replies are sent
together, in the next iteration of the event loop. So a single caller is not delayed, and many
callers share the cost of sending and receiving.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final, TypeAlias, cast
from urllib.parse import urlsplit

import hiredis
from redis.asyncio.connection import (
    AbstractConnection,
    Connection,
    SSLConnection,
    parse_url,
)
from redis.exceptions import AuthenticationError, RedisError, ResponseError

from precall_service.cache.base import StoreUnavailableError
from precall_service.cache.remote import StoreLostError

Reply: TypeAlias = "int | bytes | None | list[Reply]"
Argument: TypeAlias = "str | bytes | int | float"

CONNECT_TIMEOUT_S: Final = 2.0
CLOSE_TIMEOUT_S: Final = 1.0
WAITING_MAX: Final = 4096
"""The most commands of one channel that may wait for a reply. Further ones are refused."""

_DIRECT_BYTES_MAX: Final = 32 << 10
"""Larger commands are not sent by their caller: they might fill the socket's buffer, and a cancel
must not interrupt the sending."""

_pack = cast("Callable[[tuple[Argument, ...]], bytes]", hiredis.pack_command)  # pyright: ignore[reportUnknownMemberType]


class StoreUrlError(ValueError):
    """The URL of a store is malformed; the message says why, and contains no credentials."""


def pack(*command: Argument) -> bytes:
    """Returns a command in the format of the protocol."""
    return _pack(command)


class Server:
    """A Redis server, by its URL.

    Attributes:
        name: The URL without credentials and options, for messages.
    """

    def __init__(self, url: str) -> None:
        """Parses a URL: `redis://`, `rediss://` (TLS) or `unix://`, with user name and password.

        Raises:
            StoreUrlError: the URL is malformed.
        """
        self.name = _public(url)
        try:
            options = dict(parse_url(url))
            kind = options.pop("connection_class", Connection)
            self._kind = cast("type[AbstractConnection]", kind)
            self._options = options
            self._new()
        except (ValueError, TypeError, RedisError) as error:
            raise StoreUrlError(f"{self.name}: {error}") from None

    @property
    def secure(self) -> bool:
        """Whether connections use TLS."""
        return issubclass(self._kind, SSLConnection)

    async def connect(self) -> AbstractConnection:
        """Returns a new connection, authenticated.

        On cancel: it is closed.

        Raises:
            StoreLostError: the server cannot be reached, or refuses the credentials.
        """
        connection = self._new()
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await connection.connect()
        except BaseException as error:
            await close_connection(connection)
            if isinstance(error, RedisError | OSError | TimeoutError):
                raise StoreLostError(explain(error)) from error
            raise
        return connection

    def _new(self) -> AbstractConnection:
        return self._kind(
            **self._options,  # pyright: ignore[reportArgumentType] - the options of the URL
            # RESP 2 needs no handshake, and its types are enough for what the scripts return. The
            # guard does timeouts and retries.
            protocol=2,
            socket_timeout=None,
            socket_connect_timeout=CONNECT_TIMEOUT_S,
            driver_info=None,
        )


class Channel:
    """A connection that many callers use at the same time. Replies come in the order of commands.

    Concurrency: one event loop. If a caller is cancelled, its command is still sent and its reply
    is dropped.
    """

    def __init__(self, connection: AbstractConnection) -> None:
        self._connection = connection
        self._waiting: deque[asyncio.Future[Reply]] = deque()
        self._unsent: list[bytes] = []
        self._wake = asyncio.Event()
        self._error: StoreLostError | None = None
        self._loop = asyncio.get_running_loop()
        self._tasks = (
            self._loop.create_task(self._read()),
            self._loop.create_task(self._write()),
        )

    @property
    def lost(self) -> bool:
        """Whether the connection is lost."""
        return self._error is not None

    async def call(self, command: bytes) -> Reply:
        """Sends a packed command and returns the reply.

        Raises:
            StoreLostError: the connection is lost; the command may have been carried out.
            StoreUnavailableError: too many commands are already waiting for replies.
            ResponseError: the server refused the command.
        """
        if self._error is not None:
            raise StoreLostError(str(self._error))
        if len(self._waiting) >= WAITING_MAX:
            raise StoreUnavailableError(f"{WAITING_MAX} commands are waiting for replies")
        reply: asyncio.Future[Reply] = self._loop.create_future()
        idle = not self._waiting
        self._waiting.append(reply)
        if idle and len(command) <= _DIRECT_BYTES_MAX:
            await self._send((command,))
        else:
            self._unsent.append(command)
            self._wake.set()
        return await reply

    async def close(self) -> None:
        """Closes the connection. Waiting callers get StoreLostError."""
        self._fail(StoreLostError("the connection was closed"))
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)
        await close_connection(self._connection)

    async def _write(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            batch, self._unsent = self._unsent, []
            await self._send(batch)

    async def _send(self, commands: Sequence[bytes]) -> None:
        if not self._connection.is_connected:
            # redis-py would reconnect by itself, without a check whether the server was restarted.
            self._fail(StoreLostError("the connection is lost"))
            return
        try:
            await self._connection.send_packed_command(commands, check_health=False)
        except (RedisError, OSError) as error:
            self._fail(StoreLostError(explain(error)))

    async def _read(self) -> None:
        waiting = self._waiting
        receive = self._connection.read_response
        while self._error is None:
            try:
                reply = cast("Reply", await receive(disable_decoding=True))
            except ResponseError as refusal:
                future = waiting.popleft()
                if not future.done():
                    future.set_exception(refusal)
                continue
            except (RedisError, OSError) as error:
                self._fail(StoreLostError(explain(error)))
                return
            future = waiting.popleft()
            if not future.done():
                future.set_result(reply)

    def _fail(self, error: StoreLostError) -> None:
        if self._error is None:
            self._error = error
        while self._waiting:
            future = self._waiting.popleft()
            if not future.done():
                future.set_exception(StoreLostError(str(error)))


async def close_connection(connection: AbstractConnection) -> None:
    """Closes a connection without waiting for unsent data."""
    with suppress(RedisError, OSError, TimeoutError):
        async with asyncio.timeout(CLOSE_TIMEOUT_S):
            await connection.disconnect(nowait=True)


def _public(url: str) -> str:
    """Returns a URL without user name, password and options.

    Raises:
        StoreUrlError: the URL is malformed, or its scheme is not supported.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:  # its message may contain a part of the password
        raise StoreUrlError("the host or the port in the cache store's URL is malformed") from None
    if parts.scheme not in ("redis", "rediss", "unix"):
        raise StoreUrlError(
            "the URL of the cache store must begin with redis://, rediss:// or unix://"
        )
    if parts.scheme == "unix":
        if not parts.path:
            raise StoreUrlError("the URL of the cache store must name a socket: unix:///a/path")
        return f"unix://{parts.path}"
    if not host:
        raise StoreUrlError("the URL of the cache store must name a host: redis://host:6379/0")
    if parts.path.strip("/") and not parts.path.strip("/").isdecimal():
        raise StoreUrlError("the path of the cache store's URL must be a number: redis://host/0")
    host = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{host}:{port or 6379}{parts.path}"


def explain(error: BaseException) -> str:
    """Returns the reason why a connection failed, for messages."""
    if isinstance(error, AuthenticationError):
        return f"it refuses the user name or the password ({error})"
    if isinstance(error, TimeoutError) and not str(error):
        return f"no connection within {CONNECT_TIMEOUT_S:g} s"
    return str(error) or type(error).__name__
