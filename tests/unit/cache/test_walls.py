"""Tenants are separate: one cannot find out what another has cached, not even by timing."""

from __future__ import annotations

import math
import time
from collections.abc import AsyncGenerator

import pytest

from precall_service.cache.base import CacheKey, Observation, Origin, Value
from precall_service.cache.cache import ToolCache
from precall_service.cache.keys import cache_key
from precall_service.cache.limits import CacheLimits
from precall_service.cache.memory import MemoryStore
from precall_service.domain.errors import Reason, ServiceError
from precall_service.domain.tools import CacheScope
from tests.support.clock import ManualClock

PAIRS = 2000
GUESSED, UNKNOWN = 1_000_000, 2_000_000
Z_MAX = 6.0
"""With it, the test fails by accident once in some hundred million runs."""


def key(number: int, tenant: str) -> CacheKey:
    return cache_key(
        tenant=tenant,
        scope=CacheScope.TENANT,
        conversation_id="",
        tool_name="read",
        tool_version="1",
        arguments={"n": number},
    )


@pytest.fixture
async def cache() -> AsyncGenerator[ToolCache]:
    store = MemoryStore(ManualClock(), bytes_max=64 << 20, nodes_max=1024, changes_max=16)
    async with ToolCache(store, CacheLimits()) as cache:
        yield cache


async def refused_after_ns(cache: ToolCache, wanted: CacheKey) -> int:
    refusal: ServiceError | None = None
    began = time.perf_counter_ns()
    try:
        await cache.get(wanted)
    except ServiceError as error:
        refusal = error
    took = time.perf_counter_ns() - began
    assert refusal is not None
    assert refusal.reason is Reason.CACHE_ENTRY_UNKNOWN
    return took


async def test_a_guessed_key_of_another_tenant_takes_no_other_time(cache: ToolCache) -> None:
    value = Value(
        result_json=f'"{"x" * 4096}"',
        content="",
        execution_id="",
        origin=Origin.PUT,
        cost_s=1.0,
        ttl_s=60.0,
    )
    for number in range(PAIRS):
        await cache.put(key(GUESSED + number, "ann"), value, Observation(), None)
    guessed: list[int] = []
    unknown: list[int] = []
    for number in range(PAIRS):
        turns = ((guessed, GUESSED + number), (unknown, UNKNOWN + number))
        for times, which in turns if number % 2 else reversed(turns):
            times.append(await refused_after_ns(cache, key(which, "bob")))
    assert abs(mann_whitney_z(guessed, unknown)) < Z_MAX


def mann_whitney_z(one: list[int], other: list[int]) -> float:
    """Returns by how many standard deviations one sample is the greater (Mann, Whitney 1947)."""
    ranked = sorted([(each, 0) for each in one] + [(each, 1) for each in other])
    ranks = 0.0
    begin = 0
    while begin < len(ranked):
        end = begin
        while end < len(ranked) and ranked[end][0] == ranked[begin][0]:
            end += 1
        shared = (begin + 1 + end) / 2
        ranks += shared * sum(1 for _, which in ranked[begin:end] if which == 0)
        begin = end
    count, others = len(one), len(other)
    mean = count * (count + others + 1) / 2
    return (ranks - mean) / math.sqrt(count * others * (count + others + 1) / 12)
