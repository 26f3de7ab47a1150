"""An invalidation reaches results that are being computed, by a turn or by a client."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Coroutine

import pytest

from precall_service.cache.base import (
    Change,
    ChangeKind,
    Observation,
    Origin,
    Value,
)
from precall_service.cache.cache import ToolCache
from precall_service.cache.keys import cache_key
from precall_service.cache.limits import CacheLimits
from precall_service.cache.memory import MemoryStore
from precall_service.cache.query import CacheQuery, cache_query
from precall_service.domain.errors import Reason, ServiceError
from precall_service.domain.tools import CacheScope, ToolDeclaration, ToolEffects
from tests.support.clock import ManualClock

TOOL = ToolDeclaration(
    name="read",
    version="1",
    digest="",
    description="",
    input_schema={},
    output_schema=None,
    effects=ToolEffects(read_only=True),
    timeout_s=20.0,
    max_concurrency=1,
    cache_ttl_s=60.0,
)
KEY = cache_key(
    tenant="ann",
    scope=CacheScope.CONVERSATION,
    conversation_id="conv-1",
    tool_name="read",
    tool_version="1",
    arguments={},
)
VALUE = Value(
    result_json="1", content="", execution_id="", origin=Origin.PUT, cost_s=1.0, ttl_s=60.0
)
INVALIDATIONS = [
    Change(kind=ChangeKind.KEY, key=KEY),
    Change(kind=ChangeKind.TOOL, names=("read",)),
    Change(kind=ChangeKind.TOOL_VERSION, names=("read", "1")),
    Change(kind=ChangeKind.CONVERSATION, names=("conv-1",)),
    Change(kind=ChangeKind.RESOURCE, names=("conversation:*",)),
    Change(kind=ChangeKind.ALL),
]


EVERY_CHANGE = pytest.mark.parametrize(
    "change", INVALIDATIONS, ids=[change.kind.value for change in INVALIDATIONS]
)


@pytest.fixture
async def cache() -> AsyncGenerator[ToolCache]:
    store = MemoryStore(ManualClock(), bytes_max=1 << 20, nodes_max=100, changes_max=10)
    async with ToolCache(store, CacheLimits()) as cache:
        yield cache


def query() -> CacheQuery:
    asked = cache_query("ann", "conv-1", TOOL, {})
    assert asked is not None
    assert asked.key == KEY
    return asked


async def refusal(work: Coroutine[object, object, object]) -> Reason | None:
    """The reason for which the cache refuses something, or None."""
    try:
        await work
    except ServiceError as error:
        return error.reason
    return None


async def usable(cache: ToolCache) -> bool:
    refused = await refusal(cache.get(KEY))
    assert refused in (None, Reason.CACHE_ENTRY_UNKNOWN)
    return refused is None


@EVERY_CHANGE
async def test_what_is_stored_is_reached(cache: ToolCache, change: Change) -> None:
    await cache.put(KEY, VALUE, Observation(), None)
    assert await usable(cache)
    await cache.invalidate("ann", change)
    assert not await usable(cache)


@EVERY_CHANGE
async def test_a_run_in_flight_is_reached(cache: ToolCache, change: Change) -> None:
    lookup = await cache.find(query())
    assert lookup is not None
    await cache.invalidate("ann", change)
    await cache.keep(
        query(),
        lookup.snapshot,
        result_json="1",
        content="",
        execution_id="",
        origin=Origin.COMMITTED,
        cost_s=1.0,
    )
    assert not await usable(cache), "a result from before the invalidation was served"


@EVERY_CHANGE
async def test_a_call_does_not_join_a_run_from_before(cache: ToolCache, change: Change) -> None:
    lookup = await cache.find(query())
    assert lookup is not None
    await cache.invalidate("ann", change)
    later = await cache.find(query())
    assert later is not None
    assert later.changed_at > lookup.snapshot, "an equal call would share the older run"


@EVERY_CHANGE
async def test_a_client_that_computes_is_reached(cache: ToolCache, change: Change) -> None:
    """The client reads versions, computes, and puts what it knew before the invalidation."""
    observed = await cache.resource_versions("ann", ["file:/a"])
    await cache.invalidate("ann", change)
    refused = await refusal(cache.put(KEY, VALUE, observed, None))
    assert refused in (None, Reason.CACHE_RESOURCE_CHANGED)
    assert not await usable(cache), "a result from before the invalidation was served"
