"""The cache in the service's own memory: hits, checks and bumps, and calls that share a run."""

from __future__ import annotations

import asyncio
import json
from functools import partial

from cachetools import TTLCache

from bench import cached
from bench.process import Link, run_child
from bench.timing import Work, medians_s
from precall_service.agent.cached_calls import CachedCalls
from precall_service.cache.base import Change, ChangeKind, Lookup
from precall_service.cache.cache import ToolCache
from precall_service.cache.query import CacheQuery
from precall_service.domain.json import JsonObject
from precall_service.domain.resources import read_nodes
from precall_service.domain.tools import ToolDeclaration
from precall_service.loop_clock import LoopClock
from precall_service.tools.declarations import declare
from precall_service.tools.dispatch import Dispatcher
from precall_service.tools.link import HandlerResult
from precall_service.tools.run import InvocationContext, Run
from tests.support.clock import settle
from tests.support.links import RecordingLink
from tests.support.tools import new_toolset, tool_limits

HITS = 200
"""Hits in one turn of an arm."""
MEASURED = 10
"""Entries that are checked, whatever the number of entries: so all arms use the same memory."""
TURNS = 25


async def hits(_fields: JsonObject) -> JsonObject:
    """The time of a hit, and of what it is compared with, in microseconds."""
    arms: dict[str, Work] = {}
    async with cached.memory_cache() as cache:
        for name, reads, floats in (
            ("plain", (), False),
            ("one read", (cached.READ,), False),
            ("floats", (), True),
        ):
            tool, of = cached.declaration(*reads), cached.arguments(floats=floats)
            await cached.keep(cache, cached.query(tool, of), cached.result())
            arms[name] = partial(_hits, cache, tool, of)
        for name, floats in (("TTLCache", False), ("TTLCache, floats", True)):
            of = cached.arguments(floats=floats)
            known = TTLCache[bytes, str](100_000, cached.TTL_S)
            known[cached.plain_key(of)] = cached.result()
            arms[name] = partial(_plain_hits, known, of)
        found = await medians_s(arms, TURNS)
    return {name: 1e6 * seconds / HITS for name, seconds in found.items()}


async def _hits(cache: ToolCache, tool: ToolDeclaration, of: JsonObject) -> None:
    for _ in range(HITS):
        await cached.hit(cache, tool, of)


async def _plain_hits(known: TTLCache[bytes, str], of: JsonObject) -> None:
    for _ in range(HITS):
        assert known.get(cached.plain_key(of)) is not None


async def nodes(fields: JsonObject) -> JsonObject:
    """The time of a check and of a bump in microseconds, by the number of entries and the depth."""
    found: dict[str, float] = {}
    arms: dict[str, Work] = {}
    for entries, depth in json.loads(str(fields["settings"])):
        cache = cached.memory_cache()
        tool = cached.declaration(cached.READ)
        plain = cached.declaration()
        for number in range(MEASURED, entries):
            asked = cached.query(plain, {"number": number})
            await cached.keep(cache, asked, cached.result(number))
        asked = [
            cached.query(tool, {"path": cached.path(number, depth)}) for number in range(MEASURED)
        ]
        for number, each in enumerate(asked):
            await cached.keep(cache, each, cached.result(number))
        name = "file:" + cached.path(-1, depth)
        assert len(read_nodes(name)) == depth + 2
        arms[f"check, {entries:,} entries, depth {depth}"] = partial(_checks, cache, asked)
        arms[f"bump, {entries:,} entries, depth {depth}"] = partial(_bumps, cache, name)
    for name, seconds in (await medians_s(arms, TURNS)).items():
        found[name] = 1e6 * seconds / HITS
    return dict(found)


async def _checks(cache: ToolCache, asked: list[CacheQuery]) -> None:
    for _ in range(HITS // len(asked)):
        for each in asked:
            lookup = await cache.find(each)
            assert lookup is not None
            assert lookup.entry is not None


async def _bumps(cache: ToolCache, name: str) -> None:
    change = Change(kind=ChangeKind.RESOURCE, names=(name,))
    for _ in range(HITS):
        await cache.invalidate(cached.TENANT, change)


async def joined(fields: JsonObject) -> JsonObject:
    """The time of one of many equal calls at once, and of one wait for a future, in microseconds.

    A call includes its key. Fails unless the calls share one run.
    """
    callers = int(str(fields["callers"]))
    clock = LoopClock()
    link = RecordingLink()
    tools = new_toolset(link, tool_limits())
    tools.add(declare(cached.proposal(), tool_limits()))
    [tool] = tools.snapshot()
    async with cached.memory_cache() as cache, Dispatcher(clock, tool_limits()) as dispatcher:
        calls = CachedCalls(cache, dispatcher, clock)
        context = InvocationContext(turn_id="turn", conversation_id=cached.CONVERSATION)
        turns = 0

        async def call(of: JsonObject) -> None:
            asked = cached.query(tool.declaration, of)

            def launch(_found: Lookup | None) -> Run:
                return dispatcher.launch(
                    tool=tool,
                    arguments_json=asked.key.arguments_json,
                    context=context,
                    call_id="call",
                )

            answer = await calls.answer(tool, asked, launch, lambda _message, _fraction: None)
            assert answer.ending.result_json

        async def share() -> None:
            nonlocal turns
            turns += 1
            of = cached.arguments(turns)
            waiting = [asyncio.create_task(call(of)) for _ in range(callers)]
            await settle()
            await dispatcher.deliver(link, link.invocations[-1].invocation_id, HandlerResult("1"))
            await asyncio.gather(*waiting)
            assert len(link.asked) == turns, "equal calls did not share one run"

        async def wait() -> None:
            future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
            waiting = [asyncio.create_task(_wait(future)) for _ in range(callers)]
            await settle()
            future.set_result("1")
            await asyncio.gather(*waiting)

        found = await medians_s({"joined": share, "future": wait}, TURNS)
        stats = await cache.stats(cached.TENANT)
        assert stats.joined == turns * (callers - 1), "equal calls did not share one run"
    return {name: 1e6 * seconds / callers for name, seconds in found.items()}


async def _wait(future: asyncio.Future[str]) -> None:
    assert await asyncio.shield(future)


async def main(_config: JsonObject, link: Link) -> None:
    """Measures what the bench asks for."""
    await link.answer({}, {"hits": hits, "nodes": nodes, "joined": joined})


if __name__ == "__main__":
    run_child(main)
