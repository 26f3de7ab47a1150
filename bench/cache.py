"""What a hit in the tool cache costs, and how much memory the cache takes.

A hit goes from the arguments of a call to its result: key, versions, entry. In memory, it is
compared with a cachetools.TTLCache whose key is the SHA-256 of `json.dumps(sort_keys=True)`. In
Redis, it is compared with a GET through redis-py by the same key, and the look-up alone with a GET
by a fixed key. Redis has one core and its client the other. The arms take turns in one process,
some hundred operations at a time; a sample is the median of such turns.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Generator
from contextlib import contextmanager

from bench.process import started
from bench.report import AtMost, Report
from precall_service.domain.json import JsonObject
from tests.support.redis_server import running_redis

CALLERS = (1, 64)
DEPTHS = (2, 8, 32)

SIZES = {
    "cpu": {"entries": 100_000, "equal_calls": 1000, "rounds": 7},
    "quick": {"entries": 2000, "equal_calls": 100, "rounds": 1},
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this bench."""
    parser.add_argument("--entries", type=int, help="entries in a full store")
    parser.add_argument("--equal-calls", type=int, help="equal calls at once")
    parser.add_argument("--rounds", type=int)


async def run(options: argparse.Namespace, report: Report) -> None:
    """Runs the bench and adds its samples to the report."""
    cores = sorted(os.sched_getaffinity(0))
    with _on(cores[0]), running_redis() as few, running_redis() as full:
        urls: JsonObject = {"url": few.url, "full_url": full.url}
        for number in range(options.rounds):
            async with started("bench.arms.cache_local", {}, core=cores[-1]) as child:
                _hits(report, await child.ask("hits"))
                _joined(report, await child.ask("joined", callers=options.equal_calls))
            async with started("bench.arms.cache_redis", urls, core=cores[-1]) as child:
                for callers in CALLERS:
                    _redis(report, callers, await child.ask("measure", callers=callers))
                _full(report, await child.ask("measure_full", entries=options.entries))
            for reads in (False, True):
                await _memory(report, options.entries, reads=reads)
            await _nodes(report, options.entries)
            _compare(report, options.entries)
            report.round_ended()
            print(f"round {number + 1} of {options.rounds} ended")


@contextmanager
def _on(core: int) -> Generator[None]:
    """Keeps this process, and what it starts, on one core until the block ends."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _hits(report: Report, found: JsonObject) -> None:
    for name, of in (
        ("hit in memory", "plain"),
        ("hit in memory, one read", "one read"),
        ("TTLCache", "TTLCache"),
        ("hit in memory, arguments with floats", "floats"),
        ("TTLCache, arguments with floats", "TTLCache, floats"),
    ):
        report.add(name, _number(found, of), unit="us")


def _joined(report: Report, found: JsonObject) -> None:
    joined, future = _number(found, "joined"), _number(found, "future")
    report.add("equal call at once, of one run", joined, unit="us")
    report.add("wait for one future", future, unit="us")
    report.add("overhead of a call that shares a run", joined - future, unit="us")


def _redis(report: Report, callers: int, found: JsonObject) -> None:
    for name in found:
        report.add(f"Redis: {name}, {_at_once(callers)}", _number(found, name), unit="us")


def _full(report: Report, found: JsonObject) -> None:
    for what in ("look-up", "bump"):
        ratio = _number(found, f"{what}, full") / _number(found, f"{what}, few")
        report.add(f"Redis: {what}: many / few entries", ratio)


async def _memory(report: Report, entries: int, *, reads: bool) -> None:
    """Adds the memory of the entries, in a new process."""
    async with started("bench.arms.cache_filled", {}) as child:
        before = child.usage.memory_info().rss
        filled = await child.ask("fill", entries=entries, reads=reads)
        grown = child.usage.memory_info().rss - before
    what = _memory_of(entries, reads=reads)
    report.add(what, grown / entries, unit="bytes an entry")
    if not reads:
        report.add(f"{what} / bytes of the entries", grown / _number(filled, "own"))
    report.add(f"{what} / bytes that count", grown / _number(filled, "bytes"))
    report.add(f"{what} / bytes of the results", grown / _number(filled, "results"))


async def _nodes(report: Report, entries: int) -> None:
    async with started("bench.arms.cache_local", {}) as child:
        settings = json.dumps(_settings(entries))
        found = await child.ask("nodes", settings=settings)
    for name in sorted(found):
        report.add(name, _number(found, name), unit="us")


def _settings(entries: int) -> list[tuple[int, int]]:
    """Numbers of entries and depths to measure: one varies where the other is in the middle."""
    few, some = 10, max(10, entries // 100)
    return [(few, 8), (some, 8), (entries, 8), (entries, 2), (entries, 32)]


def _compare(report: Report, entries: int) -> None:
    for name, over, under, most in (
        ("hit in memory / TTLCache", "hit in memory", "TTLCache", 2.0),
        ("hit in memory, one read / TTLCache", "hit in memory, one read", "TTLCache", 2.0),
        (
            "hit in memory / TTLCache, arguments with floats",
            "hit in memory, arguments with floats",
            "TTLCache, arguments with floats",
            None,
        ),
    ):
        _ratio(report, name, over, under, most)
    for callers in CALLERS:
        at_once = _at_once(callers)
        for what, under, most in (
            ("look-up", "GET", 1.3),
            ("look-up, one read", "GET", None),
            ("hit", "GET by arguments", 1.3),
            ("hit, one read", "GET by arguments", None),
            ("hit", "GET", None),
        ):
            name = f"Redis: {what} / {under}, {at_once}"
            _ratio(report, name, f"Redis: {what}, {at_once}", f"Redis: {under}, {at_once}", most)
    report.judge(f"{_memory_of(entries, reads=False)} / bytes of the entries", AtMost(1.3))
    few, some, full, shallow, deep = _settings(entries)
    for what in ("check", "bump"):
        for one, other in ((some, few), (full, few), (full, shallow), (deep, full)):
            varies = "{0:,} / {1:,} entries" if one[1] == other[1] else "depth {2} / {3}"
            name = f"{what}: " + varies.format(one[0], other[0], one[1], other[1])
            _ratio(report, name, _measured(what, *one), _measured(what, *other), None)


def _ratio(report: Report, name: str, over: str, under: str, most: float | None) -> None:
    report.ratio(name, over, under)
    if most is not None:
        report.judge(name, AtMost(most))


def _measured(what: str, entries: int, depth: int) -> str:
    return f"{what}, {entries:,} entries, depth {depth}"


def _memory_of(entries: int, *, reads: bool) -> str:
    return f"memory of {entries:,} entries" + (" with one read" if reads else "")


def _at_once(callers: int) -> str:
    return f"{callers} at once"


def _number(found: JsonObject, name: str) -> float:
    return float(str(found[name]))
