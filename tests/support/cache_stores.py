"""The stores that property tests of the cache run on."""

from __future__ import annotations

import random
import time
from typing import Protocol

from precall_service.cache.base import CacheStore
from precall_service.cache.memory import MemoryStore
from precall_service.cache.redis.connection import Server
from precall_service.cache.redis.store import RedisStore
from tests.support.clock import ManualClock
from tests.support.redis_server import RedisServer

START_S = 1_700_000_000.0


class Stores(Protocol):
    """One store, or several that share what they hold."""

    slack_s: float
    """Within this time before the expiry of an entry, it is not certain whether it is served."""
    short_s: float
    """A time to live that `advance` can exceed."""
    settles_alone: bool
    """Whether announced writes of a server that died are ended by the store."""

    def pick(self, which: int) -> CacheStore:
        """One of the stores."""
        ...

    def now(self) -> float:
        """The time by which entries expire."""
        ...

    async def open(self) -> None: ...

    async def advance(self, seconds: float) -> None: ...

    async def lose_everything(self) -> None:
        """Loses what the stores hold."""
        ...

    async def close(self) -> None: ...


class InMemory:
    """A store in this process."""

    slack_s = 0.0
    short_s = 30.0
    settles_alone = False

    def __init__(self, *, bytes_max: int = 1 << 20, nodes_max: int = 1000) -> None:
        self._clock = ManualClock()
        self._bytes_max = bytes_max
        self._nodes_max = nodes_max
        self._restarts = 0
        self._store = self._new_store()

    def _new_store(self) -> MemoryStore:
        return MemoryStore(
            self._clock,
            bytes_max=self._bytes_max,
            nodes_max=self._nodes_max,
            changes_max=8,
            wall_s=lambda: START_S + self._clock.now() + self._restarts,
            chance=random.Random(0),
        )

    def pick(self, which: int) -> CacheStore:
        del which
        return self._store

    def now(self) -> float:
        return self._clock.now()

    async def open(self) -> None:
        pass

    async def advance(self, seconds: float) -> None:
        self._clock.advance(seconds)

    async def lose_everything(self) -> None:
        await self._store.close()
        self._restarts += 1
        self._store = self._new_store()

    async def close(self) -> None:
        await self._store.close()


class InRedis:
    """Two stores, as of two servers, on one Redis."""

    slack_s = 10.0
    short_s = 30.0
    settles_alone = True

    def __init__(self, server: RedisServer, *, nodes_max: int = 1000) -> None:
        self._server = server
        self._nodes_max = nodes_max
        self._passed_s = 0.0
        self._stores: list[RedisStore] = []

    def pick(self, which: int) -> CacheStore:
        return self._stores[which % 2]

    def now(self) -> float:
        return time.monotonic() + self._passed_s

    async def open(self) -> None:
        self._flush()
        for _ in range(2):
            store = RedisStore(
                Server(self._server.url),
                key_prefix="precall",
                nodes_max=self._nodes_max,
                changes_max=8,
            )
            await store.connect()
            self._stores.append(store)

    async def advance(self, seconds: float) -> None:
        self._server.pass_time(seconds)
        self._passed_s += seconds

    async def lose_everything(self) -> None:
        """Redis forgets everything, and one of the stores has to connect anew."""
        self._flush()
        await self._stores[0].disconnect()

    async def close(self) -> None:
        for store in self._stores:
            await store.close()

    def _flush(self) -> None:
        self._server.ask("FLUSHALL")
