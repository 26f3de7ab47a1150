"""The cache in a Redis server, and the same server used directly through redis-py."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial

from redis.asyncio import Redis

from bench import cached
from bench.process import Link, run_child
from bench.timing import Work, medians_s
from precall_service.cache.base import Change, ChangeKind
from precall_service.cache.cache import ToolCache
from precall_service.cache.query import CacheQuery
from precall_service.cache.redis.opening import redis_store
from precall_service.domain.json import JsonObject
from precall_service.domain.tools import ToolDeclaration
from precall_service.loop_clock import LoopClock

OPERATIONS = 256
"""Operations in one turn of an arm, of all callers together."""
TURNS = 25
KEY = "plain"


async def _all(work: Work, callers: int) -> None:
    async def caller() -> None:
        for _ in range(OPERATIONS // callers):
            await work()

    if callers == 1:
        await caller()
    else:
        await asyncio.gather(*(caller() for _ in range(callers)))


async def _get(plain: Redis) -> None:
    assert await plain.get(KEY) is not None


async def _get_by_arguments(plain: Redis, of: JsonObject) -> None:
    assert await plain.get(cached.plain_key(of)) is not None


async def _look_up(cache: ToolCache, asked: CacheQuery) -> None:
    lookup = await cache.find(asked)
    assert lookup is not None
    assert lookup.entry is not None


async def _put(cache: ToolCache, tool: ToolDeclaration, of: JsonObject) -> None:
    """Looks up and stores, as a call does that misses."""
    await cached.keep(cache, cached.query(tool, of), cached.result())


@asynccontextmanager
async def _opened(url: str) -> AsyncGenerator[ToolCache]:
    """A cache in a Redis server, with the service's own settings except for the timeout."""
    store = redis_store(
        url,
        LoopClock(),
        key_prefix="bench",
        timeout_s=5.0,  # other work of the machine must not end a measurement
        nodes_max=cached.SETTINGS.nodes_max,
        changes_max=cached.SETTINGS.changes_max,
    )
    async with store, ToolCache(store, cached.SETTINGS.limits()) as cache:
        yield cache


async def _fill(cache: ToolCache, tool: ToolDeclaration, entries: int) -> None:
    """Stores entries that read a file each, until there are as many."""
    stats = await cache.stats(cached.TENANT)
    numbers = iter(range(stats.entries, entries))

    async def put() -> None:
        for number in numbers:
            asked = cached.query(tool, {"path": cached.path(number, 5)})
            await cached.keep(cache, asked, cached.result(number))

    await asyncio.gather(*(put() for _ in range(64)))


async def main(config: JsonObject, link: Link) -> None:
    """Measures what the bench asks for, on the servers at `config["url"]` and `["full_url"]`."""
    url = str(config["url"])
    tool, reading = cached.declaration(), cached.declaration(cached.READ)
    of, other = cached.arguments(), cached.arguments(1)
    written = Change(kind=ChangeKind.RESOURCE, names=("file:" + cached.path(-1, 5),))
    plain = Redis.from_url(url)  # pyright: ignore[reportUnknownMemberType]
    async with _opened(url) as cache, _opened(str(config["full_url"])) as full, plain:
        await plain.set(KEY, cached.result())
        await plain.set(cached.plain_key(of), cached.result())
        for each in (tool, reading):
            await cached.keep(cache, cached.query(each, of), cached.result())
        await cached.keep(full, cached.query(reading, of), cached.result())

        async def measured(works: dict[str, Work], callers: int) -> JsonObject:
            arms: dict[str, Work] = {
                name: partial(_all, work, callers) for name, work in works.items()
            }
            found = await medians_s(arms, TURNS)
            return {name: 1e6 * seconds / OPERATIONS for name, seconds in found.items()}

        async def measure(fields: JsonObject) -> JsonObject:
            """The time of one operation in microseconds, by the arm."""
            works: dict[str, Work] = {
                "look-up": partial(_look_up, cache, cached.query(tool, of)),
                "look-up, one read": partial(_look_up, cache, cached.query(reading, of)),
                "GET": partial(_get, plain),
                "hit": partial(cached.hit, cache, tool, of),
                "hit, one read": partial(cached.hit, cache, reading, of),
                "GET by arguments": partial(_get_by_arguments, plain, of),
                "look up and put": partial(_put, cache, tool, other),
                "bump": partial(cache.invalidate, cached.TENANT, written),
            }
            return await measured(works, int(str(fields["callers"])))

        async def measure_full(fields: JsonObject) -> JsonObject:
            """The same of operations on a server with many entries, and with few."""
            await _fill(full, reading, int(str(fields["entries"])))
            works: dict[str, Work] = {}
            for name, where in (("full", full), ("few", cache)):
                asked = cached.query(reading, of)
                works[f"look-up, {name}"] = partial(_look_up, where, asked)
                works[f"bump, {name}"] = partial(where.invalidate, cached.TENANT, written)
            return await measured(works, 1)

        await link.answer({}, {"measure": measure, "measure_full": measure_full})


if __name__ == "__main__":
    run_child(main)
