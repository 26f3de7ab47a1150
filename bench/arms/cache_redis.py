"""The cache in a Redis server, and the same server used directly through redis-py."""

from __future__ import annotations

import asyncio
from functools import partial

from redis.asyncio import Redis

from bench import cached
from bench.process import Link, run_child
from bench.timing import Work, medians_s
from precall_service.cache.base import Change, ChangeKind
from precall_service.cache.cache import ToolCache
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


async def _put(cache: ToolCache, tool: ToolDeclaration, of: JsonObject) -> None:
    """Looks up and stores, as a call does that misses."""
    await cached.keep(cache, cached.query(tool, of), cached.result())


async def main(config: JsonObject, link: Link) -> None:
    """Measures what the bench asks for, on the server at `config["url"]`."""
    url = str(config["url"])
    store = redis_store(
        url,
        LoopClock(),
        key_prefix="bench",
        timeout_s=5.0,  # other work of the machine must not end a measurement
        nodes_max=cached.SETTINGS.nodes_max,
        changes_max=cached.SETTINGS.changes_max,
    )
    tool, reading = cached.declaration(), cached.declaration(cached.READ)
    of, other = cached.arguments(), cached.arguments(1)
    written = Change(kind=ChangeKind.RESOURCE, names=("file:" + cached.path(2, 5),))
    plain = Redis.from_url(url)  # pyright: ignore[reportUnknownMemberType]
    async with store, ToolCache(store, cached.SETTINGS.limits()) as cache, plain:
        await plain.set(KEY, cached.result())
        for each in (tool, reading):
            await cached.keep(cache, cached.query(each, of), cached.result())

        async def measure(fields: JsonObject) -> JsonObject:
            """The time of one operation in microseconds, by the arm."""
            callers = int(str(fields["callers"]))
            works: dict[str, Work] = {
                "hit": partial(cached.hit, cache, tool, of),
                "hit, one read": partial(cached.hit, cache, reading, of),
                "GET": partial(_get, plain),
                "look up and put": partial(_put, cache, tool, other),
                "bump": partial(cache.invalidate, cached.TENANT, written),
            }
            arms: dict[str, Work] = {
                name: partial(_all, work, callers) for name, work in works.items()
            }
            found = await medians_s(arms, TURNS)
            return {name: 1e6 * seconds / OPERATIONS for name, seconds in found.items()}

        await link.answer({}, {"measure": measure})


if __name__ == "__main__":
    run_child(main)
