"""Entries, changes and statistics of the tool cache are converted to messages."""

from __future__ import annotations

from dataclasses import replace

import pytest

from precall.v1 import tool_cache_pb2, tool_pb2
from precall_service.cache.base import (
    Change,
    ChangeKind,
    Entry,
    LoggedChange,
    Origin,
    ResourceVersion,
    Value,
)
from precall_service.cache.counts import CacheStats
from precall_service.cache.keys import cache_key
from precall_service.domain.tools import CacheScope
from precall_service.transport import cache_out
from tests.support.wire import said, seconds

KEY = cache_key(
    tenant="acme",
    scope=CacheScope.CONVERSATION,
    conversation_id="c1",
    tool_name="weather",
    tool_version="1",
    arguments={"city": "Rome"},
)
VALUE = Value(
    result_json="21",
    content="Warm.",
    execution_id="e1",
    origin=Origin.COMMITTED,
    cost_s=1.5,
    ttl_s=60.0,
)
TOLD = tool_cache_pb2.CacheKey(
    tool_name="weather",
    tool_version="1",
    arguments_json='{"city":"Rome"}',
    scope=tool_pb2.CACHE_SCOPE_CONVERSATION,
    conversation_id="c1",
)


def an_entry(value: Value = VALUE) -> Entry:
    return Entry(
        value=value,
        entry_version=7,
        resources=(ResourceVersion("a:*", 3),),
        age_s=10.25,
        expires_in_s=49.75,
    )


def test_an_entry_has_its_values_and_the_key_as_it_was_asked_for() -> None:
    asked = tool_cache_pb2.CacheKey(tool_name="weather", arguments_json=' {"city": "Rome"}')
    entry = cache_out.entry(asked, an_entry(), 1_700_000_000.5)
    assert entry.key == asked
    assert (entry.result_json, entry.entry_version) == ("21", 7)
    [read] = entry.resource_versions
    assert (read.resource, read.version) == ("a:*", 3)
    assert (entry.execution_id, entry.origin) == ("e1", tool_cache_pb2.CACHE_ORIGIN_COMMITTED)
    assert entry.create_time.ToMicroseconds() == 1_699_999_990_250_000
    assert entry.expire_time.ToMicroseconds() == 1_700_000_050_250_000
    assert seconds(entry.recompute_cost) == 1.5
    assert list(entry.content) == said("Warm.")


def test_what_an_entry_does_not_know_is_unset() -> None:
    value = Value(
        result_json="21", content="", execution_id="", origin=Origin.PUT, cost_s=0.0, ttl_s=1.0
    )
    entry = cache_out.entry(TOLD, an_entry(value), 1_700_000_000.0)
    assert not entry.content
    assert not entry.HasField("recompute_cost")
    assert entry.origin == tool_cache_pb2.CACHE_ORIGIN_PUT


def test_the_numbers_of_origins_are_those_of_the_contract() -> None:
    assert {f"CACHE_ORIGIN_{origin.name}": origin.value for origin in Origin} == {
        name: number for name, number in tool_cache_pb2.CacheOrigin.items() if number
    }


def test_a_stored_entry_is_told_with_its_key_and_version() -> None:
    stored = Change(kind=ChangeKind.STORED, key=KEY, entry_version=7)
    told = cache_out.watched(LoggedChange(9, 1_700_000_000.25, stored))
    assert told.position == 9
    assert told.time.ToMilliseconds() == 1_700_000_000_250
    assert told.stored == tool_cache_pb2.CacheEntryStored(key=TOLD, entry_version=7)


def test_lost_changes_are_told_as_a_gap() -> None:
    told = cache_out.watched(LoggedChange(9, 1.0, None))
    assert told.WhichOneof("change") == "gap"
    assert told.position == 9


INVALIDATIONS: dict[ChangeKind, tuple[Change, tool_cache_pb2.InvalidationTarget]] = {
    ChangeKind.KEY: (
        Change(kind=ChangeKind.KEY, key=KEY),
        tool_cache_pb2.InvalidationTarget(key=TOLD),
    ),
    ChangeKind.TOOL: (
        Change(kind=ChangeKind.TOOL, names=("weather",)),
        tool_cache_pb2.InvalidationTarget(tool_name="weather"),
    ),
    ChangeKind.TOOL_VERSION: (
        Change(kind=ChangeKind.TOOL_VERSION, names=("weather", "1")),
        tool_cache_pb2.InvalidationTarget(
            tool_version=tool_cache_pb2.ToolVersion(tool_name="weather", tool_version="1")
        ),
    ),
    ChangeKind.RESOURCE: (
        Change(kind=ChangeKind.RESOURCE, names=("a:*",)),
        tool_cache_pb2.InvalidationTarget(resource="a:*"),
    ),
    ChangeKind.CONVERSATION: (
        Change(kind=ChangeKind.CONVERSATION, names=("c1",)),
        tool_cache_pb2.InvalidationTarget(conversation_id="c1"),
    ),
    ChangeKind.ALL: (
        Change(kind=ChangeKind.ALL),
        tool_cache_pb2.InvalidationTarget(all=tool_cache_pb2.AllEntries()),
    ),
}


@pytest.mark.parametrize("kind", [kind for kind in ChangeKind if kind is not ChangeKind.STORED])
def test_every_invalidation_is_told_with_its_target(kind: ChangeKind) -> None:
    change, target = INVALIDATIONS[kind]
    told = cache_out.watched(LoggedChange(9, 1.0, change))
    assert told.invalidated.target == target


def test_a_key_without_its_long_arguments_is_told_without_them() -> None:
    change = Change(kind=ChangeKind.KEY, key=replace(KEY, arguments_json=""))
    told = cache_out.watched(LoggedChange(9, 1.0, change)).invalidated.target.key
    assert (told.tool_name, told.arguments_json) == ("weather", "")


def test_statistics_have_every_value() -> None:
    told = cache_out.stats(
        CacheStats(
            entries=1,
            bytes=2,
            hits=3,
            misses=4,
            stale=5,
            joined=6,
            evictions=7,
            time_saved_s=8.5,
            store_failures=9,
            store_available=True,
        )
    )
    assert seconds(told.time_saved) == 8.5
    told.ClearField("time_saved")
    assert told == tool_cache_pb2.ToolCacheServiceStatsResponse(
        entries=1,
        bytes=2,
        hits=3,
        misses=4,
        stale=5,
        evictions=7,
        store_available=True,
        joined=6,
        store_failures=9,
    )


def test_any_time_saved_can_be_told() -> None:
    stats = CacheStats(
        entries=0,
        bytes=0,
        hits=0,
        misses=0,
        stale=0,
        joined=0,
        evictions=0,
        time_saved_s=1e30,
        store_failures=0,
        store_available=False,
    )
    assert cache_out.stats(stats).time_saved.seconds == 315_576_000_000
