"""The cache store in Redis (6.2 or later) or Valkey, shared by several servers.

Owns: the keys, the calls of the scripts, and the connections.
Never: limits the time of operations, retries them, or handles an outage: `GuardedStore` does.

Each tenant has a sorted set with the versions of nodes, a stream of changes, the announced writes,
a hash for each entry, and an index of the entries for statistics; `lua/common.lua` describes them.
It also has a stream of what is learned (`lua/remember.lua`).
Whatever Redis loses or evicts may make more entries stale, but never fewer.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Final, cast

from redis.exceptions import NoScriptError, ReadOnlyError, RedisError, ResponseError

from precall_service.cache.base import (
    CacheKey,
    Change,
    Changed,
    ChangeKind,
    Conditions,
    Dependency,
    LoggedChange,
    Lookup,
    Mismatched,
    NotYet,
    Size,
    Stored,
    StoreUnavailableError,
    Value,
    Versions,
)
from precall_service.cache.keys import logged
from precall_service.cache.records import (
    PAGE_BYTES_MAX,
    PAGE_RECORDS_MAX,
    RECORD_BYTES_MAX,
    RECORDS_BYTES_MAX,
    RECORDS_MAX,
)
from precall_service.cache.redis import scripts
from precall_service.cache.redis.codec import (
    pack_change,
    pack_value,
    unpack_entry,
)
from precall_service.cache.redis.connection import (
    CONNECT_TIMEOUT_S,
    Argument,
    Channel,
    Reply,
    Server,
    close_connection,
    explain,
    pack,
)
from precall_service.cache.redis.scripts import Script
from precall_service.cache.redis.watch import follow
from precall_service.cache.remote import StoreLostError

FORMAT: Final = 1
"""Part of every key, so that servers with different formats do not share data."""

KEEP_MS: Final = 30 * 86_400_000
"""The data of a tenant is removed after this time without a change. Its entries are then stale."""

_PREPARED_MAX: Final = 4
_PREFIX: Final = re.compile(r"[A-Za-z0-9._:-]{1,64}")
_RUN_ID: Final = re.compile(rb"^run_id:(\w+)", re.MULTILINE)


class RedisStore:
    """See `CacheStore` and `RemoteStore`."""

    def __init__(
        self, server: Server, *, key_prefix: str, nodes_max: int, changes_max: int
    ) -> None:
        if not _PREFIX.fullmatch(key_prefix):
            raise ValueError("a prefix has 1 to 64 letters, digits, '.', '_', ':' and '-'")
        self.name = server.name
        self._server = server
        self._prefix = f"{key_prefix}:{FORMAT}"
        self._limits = (nodes_max, changes_max, KEEP_MS)
        self._server_key = f"{self._prefix}:server"
        self._epochs_key = f"{self._prefix}:epochs"
        self._channel: Channel | None = None
        self._connecting: asyncio.Task[Channel] | None = None
        self._highest = 0
        self._closed = False

    def concerns(self, tenant: str) -> bool:
        """See `CacheStore`. Always true, since another server may have given out positions."""
        return True

    async def look_up(self, key: CacheKey, nodes: Sequence[str]) -> Lookup:
        """See `CacheStore`. One round trip."""
        base = self._base(key.tenant)
        keys = (f"{base}versions", self._server_key, f"{base}e:{key.digest.hex()}")
        found = cast(
            "list[int | bytes]", await self._read(key.tenant, scripts.LOOK_UP, keys, nodes)
        )
        snapshot, changed_at, *rest = found
        assert isinstance(snapshot, int)
        assert isinstance(changed_at, int)
        self._highest = max(self._highest, snapshot)
        entry = None
        if len(rest) > 1:
            version, left_ms, resources, value = cast("tuple[int, int, bytes, bytes]", rest)
            entry = unpack_entry(value, resources, version, left_ms / 1000)
        return Lookup(
            entry=entry,
            stale=bool(rest) and entry is None,
            snapshot=snapshot,
            changed_at=changed_at,
        )

    async def put(
        self,
        key: CacheKey,
        value: Value,
        nodes: Sequence[str],
        dependencies: Sequence[Dependency],
        conditions: Conditions,
    ) -> Stored | Changed | Mismatched | NotYet:
        """See `CacheStore`."""
        observed = {each.resource: each.version for each in conditions.observed}
        packed = pack_value(value, [each.resource for each in dependencies])
        digest = key.digest.hex()
        arguments: list[Argument] = [
            _optional(conditions.snapshot),
            _optional(conditions.entry_version),
            max(1, round(value.ttl_s * 1000)),
            digest,
            pack_change(Change(kind=ChangeKind.STORED, key=logged(key))),
            packed,
            len(packed),
            len(nodes),
            *nodes,
            len(conditions.nodes),
            *conditions.nodes,
        ]
        for each in dependencies:
            version = observed.pop(each.resource, None)
            arguments += [_optional(version), len(each.nodes), *each.nodes]
        if observed:
            raise ValueError(f"the value does not depend on {next(iter(observed))!r}")
        what, number, *position = cast(
            "tuple[bytes, int, int]", await self._write(key.tenant, scripts.PUT, arguments, digest)
        )
        match what:
            case b"stored":
                self._highest = max(self._highest, *position)
                return Stored(number)
            case b"mismatched":
                return Mismatched(number)
            case b"not yet":
                return NotYet("" if number < 0 else dependencies[number].resource)
            case _:
                return Changed("" if number < 0 else dependencies[number].resource)

    async def versions(self, tenant: str, dependencies: Sequence[Dependency]) -> Versions:
        """See `CacheStore`."""
        keys = (f"{self._base(tenant)}versions", self._server_key)
        arguments: list[Argument] = []
        for each in dependencies:
            arguments += [len(each.nodes), *each.nodes]
        found = cast("list[int]", await self._read(tenant, scripts.VERSIONS, keys, arguments))
        position, *versions = found
        self._highest = max(self._highest, position)
        return Versions(position, versions)

    async def advance(
        self, tenant: str, nodes: Sequence[str], change: Change | None, *, settles: str = ""
    ) -> int:
        """See `CacheStore`."""
        return await self._position(tenant, scripts.ADVANCE, [pack_change(change), settles, *nodes])

    async def announce(
        self, tenant: str, write_id: str, nodes: Sequence[str], change: Change, within_s: float
    ) -> None:
        """See `CacheStore`. An overdue write is ended by the next operation of the tenant."""
        await self._position(
            tenant,
            scripts.ANNOUNCE,
            [pack_change(change), write_id, round(within_s * 1000), *nodes],
        )

    async def drop(self, key: CacheKey, nodes: Sequence[str] = ()) -> int:
        """See `CacheStore`."""
        digest = key.digest.hex()
        change = Change(kind=ChangeKind.KEY, key=logged(key))
        return await self._position(
            key.tenant, scripts.DROP, [digest, pack_change(change), *nodes], digest
        )

    async def watch(self, tenant: str, after: int | None) -> AsyncGenerator[LoggedChange]:
        """See `CacheStore`. Each watcher has a connection of its own, which its command blocks."""

        async def where(position: int | None) -> tuple[int, bool, int]:
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT_S):
                    found = await self._write(tenant, scripts.FOLLOW, [_optional(position)])
            except TimeoutError:
                raise StoreUnavailableError("it does not answer a watcher") from None
            position, lost, epoch = cast("tuple[int, int, int]", found)
            return position, bool(lost), epoch

        await self._ready()  # If the server was restarted, this makes older entries stale.
        connection = await self._server.connect()
        try:
            changes = follow(
                connection,
                tenant,
                after,
                log_key=f"{self._base(tenant)}log",
                epochs_key=self._epochs_key,
                where=where,
            )
            async with aclosing(changes):
                async for change in changes:
                    yield change
        finally:
            await close_connection(connection)

    async def size(self, tenant: str) -> Size:
        """See `CacheStore`. `evictions` counts those evictions of Redis that were noticed."""
        entries = f"{self._base(tenant)}e:"
        found = await self._write(tenant, scripts.SIZE, [entries], "")
        return Size(*cast("tuple[int, int, int]", found))

    async def remember(self, tenant: str, record: bytes) -> None:
        """See `CacheStore`."""
        if len(record) <= RECORD_BYTES_MAX:
            arguments = (record, RECORDS_MAX, RECORDS_BYTES_MAX, KEEP_MS)
            await self._run(scripts.REMEMBER, [f"{self._base(tenant)}learned"], arguments)

    async def recall(self, tenant: str, after: int) -> list[tuple[int, bytes]]:
        """See `CacheStore`."""
        key, arguments = f"{self._base(tenant)}learned", (after, PAGE_RECORDS_MAX, PAGE_BYTES_MAX)
        found = cast("list[int | bytes]", await self._run(scripts.RECALL, [key], arguments))
        return cast("list[tuple[int, bytes]]", list(zip(found[::2], found[1::2], strict=True)))

    async def connect(self) -> None:
        """See `RemoteStore`."""
        await self._ready()

    async def disconnect(self) -> None:
        """See `RemoteStore`."""
        connecting, channel = self._connecting, self._channel
        self._channel = None
        if connecting is not None:
            connecting.cancel()
            await asyncio.wait([connecting])
        if channel is not None:
            await channel.close()

    async def advance_epoch(self) -> None:
        """See `RemoteStore`."""
        await self._run(scripts.EPOCH, (self._server_key, self._epochs_key), ["", self._highest])

    async def close(self) -> None:
        """See `CacheStore`."""
        self._closed = True
        await self.disconnect()

    def _base(self, tenant: str) -> str:
        return f"{self._prefix}:{tenant}:"

    async def _position(
        self, tenant: str, script: Script, arguments: Sequence[Argument], digest: str | None = None
    ) -> int:
        """Runs a script that makes a change, and returns its position."""
        position = cast("int", await self._write(tenant, script, arguments, digest))
        self._highest = max(self._highest, position)
        return position

    async def _write(
        self, tenant: str, script: Script, arguments: Sequence[Argument], digest: str | None = None
    ) -> Reply:
        """Runs a script that starts with `common.lua`; with a digest, also with `entries.lua`."""
        base = self._base(tenant)
        keys = [f"{base}versions", f"{base}log", f"{base}pending", f"{base}writes"]
        keys += [self._server_key, self._epochs_key]
        if digest is not None:
            keys += [f"{base}e:{digest}", f"{base}index", f"{base}sizes"]
        return await self._run(script, keys, [*self._limits, *arguments])

    async def _read(
        self, tenant: str, script: Script, keys: Sequence[str], arguments: Sequence[Argument]
    ) -> Reply:
        """Runs a script that only reads. If it needs preparation, prepares and runs it again."""
        for _ in range(_PREPARED_MAX):
            found = await self._run(script, keys, arguments)
            if found is not None:
                return found
            await self._write(tenant, scripts.PREPARE, ())
        raise StoreUnavailableError("it does not keep what is written to it")

    async def _run(
        self, script: Script, keys: Sequence[str], arguments: Sequence[Argument]
    ) -> Reply:
        channel = self._channel
        if channel is None or channel.lost:
            channel = await self._ready()
        command = pack("EVALSHA", script.sha, len(keys), *keys, *arguments)
        try:
            try:
                return await channel.call(command)
            except NoScriptError:
                await channel.call(pack("SCRIPT", "LOAD", script.text))
                return await channel.call(command)
        except ReadOnlyError as error:
            # Another server has become the primary. This one may have old data.
            self._channel = None
            await channel.close()
            raise StoreLostError(str(error)) from error
        except RedisError as error:
            raise StoreUnavailableError(str(error)) from error

    async def _ready(self) -> Channel:
        """Returns the channel; connects it first if necessary.

        On cancel: connecting goes on, for the next caller.
        """
        if self._closed:
            raise StoreUnavailableError("the store is closed")
        if self._channel is not None and not self._channel.lost:
            return self._channel
        if self._connecting is None:
            self._connecting = asyncio.create_task(self._connect())
            self._connecting.add_done_callback(self._connected)
        connecting = self._connecting
        try:
            return await asyncio.shield(connecting)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if connecting.cancelled() and (task is None or not task.cancelling()):
                # `disconnect` has cancelled the connecting. This caller was not cancelled.
                raise StoreLostError("the connection was given up") from None
            raise

    def _connected(self, connecting: asyncio.Task[Channel]) -> None:
        self._connecting = None
        if not connecting.cancelled():
            connecting.exception()  # Marks it as retrieved: all callers may have been cancelled.

    async def _connect(self) -> Channel:
        if self._channel is not None:
            await self._channel.close()
            self._channel = None
        channel = Channel(await self._server.connect())
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await self._enter(channel)
        except BaseException as error:
            await channel.close()
            if isinstance(error, RedisError | TimeoutError):
                raise StoreLostError(explain(error)) from error
            raise
        self._channel = channel
        return channel

    async def _enter(self, channel: Channel) -> None:
        """Loads the scripts, and makes all entries stale if the server was restarted.

        A restarted server may have lost confirmed changes, even if it keeps its data on disk.
        """
        loads = [channel.call(pack("SCRIPT", "LOAD", script.text)) for script in scripts.ALL]
        run_id, _ = await asyncio.gather(_run_id(channel), asyncio.gather(*loads))
        await channel.call(
            pack(
                *("EVALSHA", scripts.EPOCH.sha, 2, self._server_key, self._epochs_key),
                *(run_id, self._highest),
            )
        )


async def _run_id(channel: Channel) -> bytes:
    """Returns the id of the server's run.

    It is empty, which counts as a restart, if the user has no permission to read it.
    """
    try:
        info = cast("bytes", await channel.call(pack("INFO", "server")))
    except ResponseError:
        return b""
    found = _RUN_ID.search(info)
    return found[1] if found else b""


def _optional(number: int | None) -> Argument:
    return "" if number is None else number
