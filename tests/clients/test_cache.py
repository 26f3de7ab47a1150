"""The tool cache as clients use it, with the real service and with the fake server."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import grpc
import pytest

import precall
from precall import (
    CacheEntriesInvalidated,
    CacheEntryStored,
    CacheKey,
    CacheOrigin,
    CacheTarget,
    Client,
    ResultSource,
)
from precall.testing import Call, FakeServer, Say
from tests.clients.helpers import FAST
from tests.support.stream import running_server

PARIS = {"city": "Paris"}
WEATHER = ("weather", "1", PARIS)
SUNNY = {"sky": "sunny"}


@pytest.fixture(params=["service", "fake"])
async def address(request: pytest.FixtureRequest) -> AsyncIterator[str]:
    """The address of a server with an empty cache."""
    if request.param == "fake":
        async with FakeServer() as fake:
            yield fake.address
    else:
        async with running_server() as server:
            yield server.service.address


@pytest.fixture
async def client(address: str) -> AsyncIterator[Client]:
    async with Client(address, options=FAST) as client:
        yield client


async def test_what_was_put_is_found(client: Client) -> None:
    assert await client.cache.get(*WEATHER) is None
    version = await client.cache.put(
        *WEATHER, SUNNY, ttl_s=60, recompute_cost_s=1.5, content="It is sunny."
    )
    found = await client.cache.get("weather", "1", '{ "city": "Paris" }')
    assert found is not None
    assert (found.result, found.entry_version) == (SUNNY, version)
    assert (found.key.tool_name, found.key.tool_version) == ("weather", "1")
    assert (found.key.arguments, found.key.scope) == (PARIS, "tenant")
    assert (found.origin, found.execution_id) == (CacheOrigin.PUT, "")
    assert (found.recompute_cost_s, found.content[0].text) == (1.5, "It is sunny.")
    assert abs((found.expires_at - found.created_at).total_seconds() - 60) < 0.1
    age = datetime.datetime.now(datetime.UTC) - found.created_at
    assert abs(age.total_seconds()) < 30
    for name, version, city in (
        ("weather", "2", "Paris"),
        ("weather", "1", "Rome"),
        ("a", "1", ""),
    ):
        assert await client.cache.get(name, version, {"city": city}) is None
    assert await client.cache.get(*WEATHER, conversation_id="c1") is None


async def test_the_order_of_arguments_does_not_matter(client: Client) -> None:
    await client.cache.put("a", "1", {"x": 1, "y": "é"}, None, ttl_s=60)
    found = await client.cache.get("a", "1", {"y": "é", "x": 1})
    assert found is not None
    assert (found.result_json, found.result) == ("null", None)


async def test_an_entry_of_a_conversation_is_its_own(client: Client) -> None:
    await client.cache.put(*WEATHER, SUNNY, ttl_s=60, conversation_id="c1")
    found = await client.cache.get(*WEATHER, conversation_id="c1")
    assert found is not None
    assert (found.key.conversation_id, found.key.scope) == ("c1", "conversation")
    assert await client.cache.get(*WEATHER) is None
    assert await client.cache.get(*WEATHER, conversation_id="c2") is None
    await client.cache.invalidate(resource="conversation:c1")
    assert await client.cache.get(*WEATHER, conversation_id="c1") is None


async def test_a_write_makes_results_stale_that_have_read_the_resource(client: Client) -> None:
    seen = await client.cache.resource_versions(["file:/a/*", "order:1"])
    assert [version.resource for version in seen.versions] == ["file:/a/*", "order:1"]
    await client.cache.put(*WEATHER, SUNNY, ttl_s=60, observed=seen)
    found = await client.cache.get(*WEATHER)
    assert found is not None
    assert {version.resource for version in found.resource_versions} >= {"file:/a/*", "order:1"}
    await client.cache.invalidate(resource="file:/b")
    assert await client.cache.get(*WEATHER) is not None
    await client.cache.invalidate(resource="file:/a/b/c")
    assert await client.cache.get(*WEATHER) is None
    now = await client.cache.resource_versions(["file:/a/*", "order:1"])
    assert now.versions[0] != seen.versions[0]
    assert now.versions[1] == seen.versions[1]
    assert now.position is not None
    assert seen.position is not None
    assert now.position > seen.position


async def test_a_result_that_overlapped_a_write_is_not_stored(client: Client) -> None:
    seen = await client.cache.resource_versions(["file:/a"])
    await client.cache.invalidate(resource="file:/*")
    with pytest.raises(precall.CacheConflictError) as caught:
        await client.cache.put(*WEATHER, SUNNY, ttl_s=60, observed=seen)
    assert caught.value.reason == "CACHE_RESOURCE_CHANGED"
    assert caught.value.code is grpc.StatusCode.ABORTED
    assert await client.cache.get(*WEATHER) is None


@pytest.mark.parametrize("target", [{"tool": "weather"}, {"everything": True}])
async def test_a_result_from_before_an_invalidation_is_not_stored(
    client: Client, target: dict[str, Any]
) -> None:
    seen = await client.cache.resource_versions([])
    await client.cache.invalidate(**target)
    with pytest.raises(precall.CacheConflictError) as caught:
        await client.cache.put(*WEATHER, SUNNY, ttl_s=60, observed=seen)
    assert caught.value.reason == "CACHE_RESOURCE_CHANGED"


async def test_a_watch_can_begin_where_the_versions_were_read(client: Client) -> None:
    seen = await client.cache.resource_versions([])
    await client.cache.invalidate(resource="file:/a")
    async for change in client.cache.watch(seen.position):
        assert isinstance(change, precall.CacheEntriesInvalidated)
        assert change.target.resource == "file:/a"
        break


async def test_an_entry_is_replaced_only_at_the_expected_version(client: Client) -> None:
    first = await client.cache.put(*WEATHER, 1, ttl_s=60, expected_entry_version=0)
    with pytest.raises(precall.CacheConflictError) as caught:
        await client.cache.put(*WEATHER, 2, ttl_s=60, expected_entry_version=0)
    assert caught.value.reason == "CACHE_VERSION_MISMATCH"
    second = await client.cache.put(*WEATHER, 2, ttl_s=60, expected_entry_version=first)
    assert second == first + 1
    assert (await found_result(client)) == 2


async def found_result(client: Client) -> object:
    found = await client.cache.get(*WEATHER)
    return None if found is None else found.result


TARGETS: dict[str, Any] = {
    "key": CacheKey.of_call(*WEATHER),
    "tool": "weather",
    "tool_version": ("weather", "1"),
    "resource": "weather:*",
    "everything": True,
}


@pytest.mark.parametrize("way", TARGETS)
async def test_each_way_to_invalidate(client: Client, way: str) -> None:
    seen = await client.cache.resource_versions(["weather:paris"])
    await client.cache.put(*WEATHER, SUNNY, ttl_s=60, observed=seen)
    others: dict[str, Any] = {
        "tool": "rain",
        "tool_version": ("weather", "2"),
        "resource": "rain:*",
    }
    for other, value in others.items():
        await client.cache.invalidate(**{other: value})
    await client.cache.invalidate(key=CacheKey.of_call("weather", "1", {}))
    await client.cache.invalidate(conversation_id="c1")
    assert await found_result(client) == SUNNY
    await client.cache.invalidate(**{way: TARGETS[way]})
    assert await found_result(client) is None


async def test_a_conversation_is_invalidated_as_a_whole(client: Client) -> None:
    for conversation_id in ("c1", "c2"):
        await client.cache.put(*WEATHER, SUNNY, ttl_s=60, conversation_id=conversation_id)
    await client.cache.invalidate(conversation_id="c1")
    assert await client.cache.get(*WEATHER, conversation_id="c1") is None
    assert await client.cache.get(*WEATHER, conversation_id="c2") is not None


@pytest.mark.parametrize(
    "ways", [{}, {"everything": False}, {"tool": "a", "resource": "file:/a"}, {"key": None}]
)
async def test_invalidating_needs_exactly_one_way(ways: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="exactly one of key, tool, tool_version"):
        await Client("localhost:1").cache.invalidate(**ways)


async def test_a_watch_yields_changes_in_order(client: Client) -> None:
    start = await client.cache.invalidate(tool="other")
    key = CacheKey.of_call(*WEATHER, conversation_id="c1")
    version = await client.cache.put(*WEATHER, SUNNY, ttl_s=60, conversation_id="c1")
    for way, target in TARGETS.items():
        await client.cache.invalidate(**{way: target})
    await client.cache.invalidate(conversation_id="c1")
    changes: list[precall.CacheChange] = []
    async with aclosing(client.cache.watch(start)) as watched, asyncio.timeout(5):
        async for change in watched:
            changes.append(change)
            if len(changes) == 7:
                break
    stored, *invalidated = changes
    assert isinstance(stored, CacheEntryStored)
    assert (stored.key.arguments, stored.key.scope) == (PARIS, "conversation")
    assert stored.entry_version == version
    positions = [change.position for change in changes]
    assert positions == sorted(set(positions))
    assert positions[0] > start
    targets = [
        change.target for change in invalidated if isinstance(change, CacheEntriesInvalidated)
    ]
    assert targets[0].key is not None
    assert targets[0].key.arguments == key.arguments
    assert targets[1:] == [
        *(CacheTarget(**{way: target}) for way, target in TARGETS.items() if way != "key"),
        CacheTarget(conversation_id="c1"),
    ]
    assert changes[0].changed_at.tzinfo is datetime.UTC


async def test_a_watch_waits_for_changes_and_ends_with_its_loop(client: Client) -> None:
    start = await client.cache.invalidate(everything=True)

    async def first() -> int:
        async for change in client.cache.watch(start):
            return change.position
        raise AssertionError

    watching = asyncio.ensure_future(first())
    await asyncio.sleep(0.05)
    assert not watching.done()
    position = await client.cache.invalidate(everything=True)
    assert await watching == position
    cancelled = asyncio.ensure_future(first_of(client, position))
    await asyncio.sleep(0.05)
    cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled


async def first_of(client: Client, after: int | None = None) -> precall.CacheChange:
    return await anext(client.cache.watch(after))


async def test_closing_the_client_ends_its_watches(client: Client) -> None:
    watching = asyncio.ensure_future(first_of(client))
    await asyncio.sleep(0.05)
    await client.close()
    with pytest.raises(precall.ConnectError, match="the client was closed"):
        await watching


async def test_stats(client: Client) -> None:
    await client.cache.get(*WEATHER)
    await client.cache.put(*WEATHER, SUNNY, ttl_s=60)
    await client.cache.get(*WEATHER)
    stats = await client.cache.stats()
    assert (stats.entries, stats.hits, stats.misses) == (1, 1, 1)
    assert (stats.joined, stats.evictions, stats.store_failures) == (0, 0, 0)
    assert stats.bytes > 0
    assert stats.store_available


@pytest.mark.parametrize("arguments", ["[]", "{", ""])
async def test_arguments_that_are_no_object_are_refused(client: Client, arguments: str) -> None:
    for attempt in (
        client.cache.get("a", "1", arguments),
        client.cache.put("a", "1", arguments, 1, ttl_s=60),
        client.cache.invalidate(key=CacheKey("a", "1", arguments)),
    ):
        with pytest.raises(precall.InvalidArgumentError, match="arguments_json"):
            await attempt


@pytest.mark.parametrize(
    ("wrong", "kind", "says"),
    [
        ({"ttl_s": 0}, ValueError, "put: ttl_s is 0, and must be a number of seconds above 0"),
        ({"ttl_s": float("nan")}, ValueError, "put: ttl_s is nan"),
        ({"ttl_s": "60"}, TypeError, "put: ttl_s is '60'"),
        ({"recompute_cost_s": -1}, ValueError, "put: recompute_cost_s is -1"),
        ({"expected_entry_version": -1}, ValueError, "put: expected_entry_version is -1"),
        ({"content": 3}, TypeError, "put: content is 3, and must be a string"),
        ({"arguments": {"x": float("nan")}}, ValueError, "not JSON compliant"),
        ({"arguments": {"x": object()}}, TypeError, "not JSON serializable"),
        ({"arguments": [1]}, TypeError, "a mapping or JSON text, not list"),
        ({"result": object()}, TypeError, "the result is object, which does not become JSON"),
    ],
)
async def test_what_cannot_be_put_is_refused_before_it_is_sent(
    wrong: dict[str, Any], kind: type[Exception], says: str
) -> None:
    arguments: dict[str, Any] = {
        "tool_name": "a", "tool_version": "1", "arguments": {}, "result": 1, "ttl_s": 60,
    }  # fmt: skip
    with pytest.raises(kind, match=says):
        await Client("localhost:1").cache.put(**{**arguments, **wrong})


async def test_names_of_resources_are_a_list() -> None:
    with pytest.raises(TypeError, match=r"takes a list of names: \['file:/a'\]"):
        await Client("localhost:1").cache.resource_versions("file:/a")


async def test_a_conversation_knows_the_versions_of_its_tools(address: str) -> None:
    async def weather(city: str) -> str:
        """The weather."""
        return city

    async with Client(address, options=FAST) as client:
        client.add_tool(weather, version="7")
        conversation = client.conversation()
        with pytest.raises(precall.ConversationClosedError):
            conversation.tool_version("weather")
        async with conversation:
            assert conversation.tool_version("weather") == "7"
            await conversation.add_tool(weather, version="8")
            assert conversation.tool_version("weather") == "8"
            await conversation.add_tool(weather, name="rain")
            assert conversation.tool_version("rain")
            await conversation.remove_tool("weather")
            with pytest.raises(precall.ToolRejectedError, match="has no tool 'weather'"):
                conversation.tool_version("weather")


async def test_a_result_that_is_too_large_is_refused() -> None:
    async with running_server() as server, Client(server.service.address, options=FAST) as client:
        with pytest.raises(precall.TooLargeError, match="result_json: it has 2097154 bytes"):
            await client.cache.put(*WEATHER, "x" * 2 * 2**20, ttl_s=60)
        with pytest.raises(precall.LimitReachedError, match="larger than max"):  # by gRPC itself
            await client.cache.put(*WEATHER, "x" * 9 * 2**20, ttl_s=60)
        assert (await client.cache.stats()).entries == 0


async def test_only_tools_without_effects_are_cached(address: str) -> None:
    def weather(city: str) -> str:
        """The weather."""
        return city

    async with Client(address, options=FAST) as client:
        client.add_tool(weather, cache_ttl_s=60)
        with pytest.raises(precall.ToolRejectedError, match="read_only"):
            await client.conversation().open()


async def test_the_fake_answers_scripted_calls_from_what_was_put() -> None:
    runs: list[str] = []

    async def weather(city: str) -> str:
        """The weather."""
        runs.append(city)
        return "from the handler"

    async def move(city: str) -> None:
        """Moves."""

    call = Call("weather", PARIS)
    script = ([call, Say("")], [call, Call("move", PARIS), call, Say("")])
    async with FakeServer(*script) as server, Client(server.address, options=FAST) as client:
        client.add_tool(weather, read_only=True, cache_ttl_s=60)
        client.add_tool(move)
        async with client.conversation() as conversation:
            first = await conversation.ask("?")
            version = conversation.tool_version("weather")
            await client.cache.put(
                "weather", version, PARIS, "put", ttl_s=60, conversation_id=conversation.id
            )
            second = await conversation.ask("?")
    assert [call.source for call in first.tool_calls] == [ResultSource.COMMITTED]
    sources = [call.source for call in second.tool_calls]
    assert sources == [ResultSource.CACHE, ResultSource.COMMITTED, ResultSource.COMMITTED]
    assert [call.result for call in second.tool_calls] == ["put", None, "from the handler"]
    assert (first.report.cache_hits, second.report.cache_hits) == (0, 1)
    assert runs == ["Paris", "Paris"]
