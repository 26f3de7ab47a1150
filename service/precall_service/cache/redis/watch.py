"""Reads a tenant's log of changes as it grows, and notices missing changes.

Each record contains the position of the one before it, so a reader notices if records are missing
between two others. The `follow` script finds all other losses. It is called at the start, and
whenever there has been no change for a while.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Final, TypeAlias, cast

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError

from precall_service.cache.base import LoggedChange, StoreUnavailableError
from precall_service.cache.redis.codec import unpack_change
from precall_service.cache.redis.connection import Reply, pack
from precall_service.cache.remote import StoreLostError

BLOCK_S: Final = 5.0
ANSWER_S: Final = 2.0
"""How much longer than BLOCK_S an answer may take."""

READ_MAX: Final = 64

Follow: TypeAlias = Callable[[int | None], Awaitable[tuple[int, bool, int]]]
"""Returns the position from which to read on, whether changes before it are lost, and the epoch."""

_Records: TypeAlias = "list[tuple[bytes, list[bytes]]]"


async def follow(
    connection: AbstractConnection,
    tenant: str,
    after: int | None,
    *,
    log_key: str,
    epochs_key: str,
    where: Follow,
) -> AsyncGenerator[LoggedChange]:
    """Yields changes; see `CacheStore.watch`. Nothing else may use the connection.

    Raises:
        StoreUnavailableError: the connection is lost, or the server does not answer.
    """
    position = after
    while True:
        position, lost, epoch = await where(position)
        if lost:
            yield _gap(position)
        while read := await _read(connection, log_key, epochs_key, position, epoch):
            changes = [_change(tenant, *record) for record in read.get(log_key, [])]
            for record, _ in read.get(epochs_key, []):
                epoch = _position(record)
                changes.append((epoch, _gap(epoch)))
            # The positions of the two streams are in one common order.
            for before, change in sorted(changes, key=lambda each: each[1].position):
                if change.position <= position:
                    continue
                if before > position and change.change is not None:
                    yield _gap(before)
                position = change.position
                yield change


async def _read(
    connection: AbstractConnection, log_key: str, epochs_key: str, position: int, epoch: int
) -> dict[str, _Records]:
    """Waits for records after the position and the epoch; returns none if none come for a while."""
    command = pack(
        *("XREAD", "COUNT", READ_MAX, "BLOCK", int(BLOCK_S * 1000)),
        *("STREAMS", log_key, epochs_key, f"{position}-0", f"{epoch}-0"),
    )
    try:
        async with asyncio.timeout(BLOCK_S + ANSWER_S):
            await connection.send_packed_command(command, check_health=False)
            reply = cast("Reply", await connection.read_response(disable_decoding=True))
    except TimeoutError:
        raise StoreLostError("it did not answer a watcher in time") from None
    except (RedisError, OSError) as error:
        raise StoreUnavailableError(str(error)) from error
    streams = cast("list[tuple[bytes, _Records]] | None", reply) or []
    return {name.decode(): records for name, records in streams}


def _change(tenant: str, record: bytes, fields: list[bytes]) -> tuple[int, LoggedChange]:
    """Returns the position of the record before this one, and the change of this one."""
    _, before, _, change, _, entry_version = fields
    position = _position(record)
    return int(before), LoggedChange(
        position, position / 1e6, unpack_change(tenant, change, int(entry_version))
    )


def _position(record: bytes) -> int:
    return int(record.partition(b"-")[0])


def _gap(position: int) -> LoggedChange:
    return LoggedChange(position, position / 1e6, None)
