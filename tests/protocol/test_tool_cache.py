"""ToolCacheService: each method, what it refuses, and that tenants do not see each other's data."""

from __future__ import annotations

import time

import grpc
import grpc.aio
import pytest
from google.protobuf.duration_pb2 import Duration

from precall.v1 import agent_pb2, tool_cache_pb2, tool_cache_pb2_grpc
from tests.support.cache_service import (
    Caller,
    Get,
    Invalidate,
    Put,
    Stats,
    Target,
    Versions,
    Watch,
    a_put,
    call,
    of_conversation,
)
from tests.support.stream import WAIT_S, RunningServer, ending, running_server
from tests.support.wire import said, seconds


def acme(server: RunningServer) -> Caller:
    return Caller(server.channel)


async def test_what_was_put_is_got_for_equal_arguments() -> None:
    async with running_server() as server:
        cache = acme(server)
        version = await cache.put(
            call('{"city":"Rome","days":2}'),
            '{"t": 21}',
            content=said("Wa", "rm."),
            recompute_cost=Duration(seconds=1, nanos=500_000_000),
        )
        server.clock.advance(20.0)
        asked = call('{ "days" : 2.0, "city" : "\\u0052ome" }')
        entry = await cache.get(asked)
        assert entry.key == asked, "as the caller wrote it"
        assert (entry.result_json, entry.entry_version) == ('{"t": 21}', version)
        assert list(entry.content) == said("Warm.")
        assert seconds(entry.recompute_cost) == 1.5
        assert entry.origin == tool_cache_pb2.CACHE_ORIGIN_PUT
        assert not entry.execution_id
        assert not entry.resource_versions
        made, ends = entry.create_time.ToNanoseconds(), entry.expire_time.ToNanoseconds()
        assert abs(made / 1e9 + 20.0 - time.time()) < WAIT_S
        assert ends - made == 60_000_000_000
        await cache.missed(call('{"city":"Rome","days":3}'))


async def test_a_default_scope_is_the_conversation() -> None:
    async with running_server() as server:
        cache = acme(server)
        await cache.put(of_conversation("c1"))
        assert await cache.get(call(scope=0, conversation_id="c1"))
        for other in (of_conversation("c2"), call()):
            await cache.missed(other)


@pytest.mark.parametrize(
    "other", [call(tool_name="wind"), call(tool_version="2"), call("{}")], ids=["tool", "v2", "{}"]
)
async def test_an_entry_is_of_one_call_of_one_version(other: tool_cache_pb2.CacheKey) -> None:
    async with running_server() as server:
        cache = acme(server)
        await cache.put()
        error = await cache.missed(other)
        assert error.metadata["tool_name"] == other.tool_name


async def test_an_entry_ends_with_its_time_to_live() -> None:
    async with running_server() as server:
        cache = acme(server)
        await cache.put(ttl=Duration(seconds=10))
        server.clock.advance(9.9)
        await cache.get()
        server.clock.advance(0.2)
        await cache.missed()


async def test_tenants_are_walls() -> None:
    async with running_server() as server:
        ours, theirs = acme(server), Caller(server.channel, "other")
        for key in (call(), of_conversation("c1")):
            await ours.put(key)
            unknown = await theirs.missed(key)
            assert unknown == await Caller(server.channel, "third").missed(key)
        assert (await theirs.stats()).entries == 0
        for target in (
            Target(key=call()),
            Target(tool_name="weather"),
            Target(conversation_id="c1"),
            Target(resource="conversation:*"),
            Target(all=tool_cache_pb2.AllEntries()),
        ):
            await theirs.invalidate(target)
        assert await theirs.put(expected_entry_version=0)
        assert (await ours.get()).result_json == "21"
        await ours.get(of_conversation("c1"))
        [before] = await ours.versions("order:7")
        await theirs.invalidate(Target(resource="order:7"))
        assert await ours.versions("order:7") == [before]


async def test_a_caller_without_a_tenant_is_the_default_tenant() -> None:
    async with running_server() as server:
        await Caller(server.channel, "default").put()
        stub = tool_cache_pb2_grpc.ToolCacheServiceStub(server.channel)
        await stub.Get(Get(key=call()), timeout=WAIT_S)


async def test_a_put_compares_the_version_of_the_entry() -> None:
    async with running_server() as server:
        cache = acme(server)
        first = await cache.put(expected_entry_version=0)
        for wrong in (0, first - 1, first + 1):
            error = await cache.put_refused(a_put(result_json="1", expected_entry_version=wrong))
            assert error.code is grpc.StatusCode.ABORTED
            assert error.reason == "CACHE_VERSION_MISMATCH"
            assert error.metadata == {"entry_version": str(first), "expected": str(wrong)}
        assert (await cache.get()).result_json == "21"
        assert await cache.put(result_json="22", expected_entry_version=first) == first + 1
        assert await cache.put(result_json="23") == first + 2
        await cache.invalidate(Target(key=call()))
        error = await cache.put_refused(a_put(expected_entry_version=first + 2))
        assert error.metadata["entry_version"] == "0"
        assert await cache.put(expected_entry_version=0) > first + 2


async def test_a_result_is_stored_with_the_versions_that_were_observed() -> None:
    async with running_server() as server:
        cache = acme(server)
        versions = await cache.versions("file:/a/*", "order:7", "order:*")
        assert await cache.versions("file:/a/*", "order:7", "order:*") == versions
        await cache.put(observed_versions=versions)
        assert list((await cache.get()).resource_versions) == versions


@pytest.mark.parametrize(
    ("read", "written", "stale"),
    [
        ("file:/a/b", "file:/a/b", True),
        ("file:/a/b", "file:/a/*", True),
        ("file:/a/*", "file:/a/b/c", True),
        ("order:7", "order:*", True),
        ("file:/a/*", "file:/a", False),
        ("file:/a/b", "file:/a/c", False),
        ("order:7", "orders:7", False),
    ],
)
async def test_a_write_makes_stale_what_has_read(read: str, written: str, stale: bool) -> None:
    async with running_server() as server:
        cache = acme(server)
        seen = await cache.versions(read)
        await cache.put(observed_versions=seen)
        await cache.invalidate(Target(resource=written))
        [now] = await cache.versions(read)
        assert (now.version > seen[0].version) is stale
        if not stale:
            await cache.get()
            return
        await cache.missed()
        assert (await cache.stats()).stale == 1
        error = await cache.put_refused(a_put(observed_versions=seen))
        assert error.code is grpc.StatusCode.ABORTED
        assert error.reason == "CACHE_RESOURCE_CHANGED"
        assert error.metadata["resource"] == read
        await cache.missed()
        await cache.put(observed_versions=[now])
        await cache.get()


async def test_a_version_from_the_future_is_refused() -> None:
    async with running_server() as server:
        cache = acme(server)
        seen = await cache.versions("order:7", "order:8")
        for ahead in (1_000_000_000_000, 2**64 - 1 - seen[1].version):
            later = tool_cache_pb2.ResourceVersion(
                resource="order:8", version=seen[1].version + ahead
            )
            error = await cache.put_refused(a_put(observed_versions=[seen[0], later]))
            assert error.reason == "FIELD_INVALID"
            assert error.field == "observed_versions[1].version"
        await cache.missed()


TARGETS = {
    "key": (Target(key=of_conversation("c1")), {"c1"}),
    "tool": (Target(tool_name="weather"), {"c1", "c2", "tenant", "v2"}),
    "tool version": (
        Target(tool_version=tool_cache_pb2.ToolVersion(tool_name="weather", tool_version="2")),
        {"v2"},
    ),
    "resource": (Target(resource="conversation:c2"), {"c2"}),
    "conversation": (Target(conversation_id="c1"), {"c1"}),
    "all": (Target(all=tool_cache_pb2.AllEntries()), {"c1", "c2", "tenant", "v2", "wind"}),
}


@pytest.mark.parametrize("case", TARGETS)
async def test_an_invalidation_ends_the_entries_that_it_names(case: str) -> None:
    target, ended = TARGETS[case]
    keys = {
        "c1": of_conversation("c1"),
        "c2": of_conversation("c2"),
        "tenant": call(),
        "v2": call(tool_version="2"),
        "wind": call(tool_name="wind"),
    }
    async with running_server() as server:
        cache = acme(server)
        for key in keys.values():
            await cache.put(key)
        first = await cache.invalidate(target)
        for name, key in keys.items():
            if name in ended:
                await cache.missed(key)
            else:
                await cache.get(key)
        assert await cache.invalidate(target) > first


async def test_statistics_count_the_tenant_s_reads() -> None:
    async with running_server() as server:
        cache = acme(server)
        assert await cache.stats() == tool_cache_pb2.ToolCacheServiceStatsResponse(
            time_saved=Duration(), store_available=True
        )
        await cache.put(recompute_cost=Duration(seconds=3))
        await cache.get()
        await cache.get()
        await cache.missed(call("{}"))
        stats = await cache.stats()
        assert (stats.hits, stats.misses, stats.stale) == (2, 1, 0)
        assert (stats.entries, stats.evictions) == (1, 0)
        assert stats.bytes > 0
        assert seconds(stats.time_saved) == 6.0


async def test_a_value_above_the_limit_of_an_entry_is_not_stored() -> None:
    async with running_server(cache={"entry_bytes_max": 1024}) as server:
        cache = acme(server)
        await cache.put(result_json=f'"{"x" * 1022}"')
        error = await cache.put_refused(a_put(result_json=f'"{"y" * 1023}"'))
        assert error.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert (error.reason, error.field) == ("TOO_LARGE", "result_json")
        assert error.metadata == {"size": "1025", "limit": "1024"}
        error = await cache.put_refused(a_put(result_json="1", content=said("z" * 1024)))
        assert error.reason == "TOO_LARGE"
        assert "x" in (await cache.get()).result_json


async def test_a_value_that_grpc_itself_refuses_harms_nothing() -> None:
    async with running_server() as server:
        cache = acme(server)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await cache.put(result_json=f'"{"x" * (64 << 20)}"')
        assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        await cache.missed()
        await cache.put()


NOT_A_KEY = call("[]")

REFUSED = {
    "get": ("Get", Get(key=NOT_A_KEY), "key.arguments_json"),
    "get nothing": ("Get", Get(), "key"),
    "put": ("Put", a_put(NOT_A_KEY), "key.arguments_json"),
    "put nothing": ("Put", Put(), "key"),
    "no time to live": ("Put", Put(key=call(), result_json="1"), "ttl"),
    "long": ("Put", a_put(ttl=Duration(seconds=604_801)), "ttl"),
    "not JSON": ("Put", a_put(result_json="NaN"), "result_json"),
    "a deep name": (
        "GetResourceVersions",
        Versions(resources=["file:" + "/a" * 10_000]),
        "resources[0]",
    ),
    "invalidate nothing": ("Invalidate", Invalidate(), "target"),
    "invalidate a deep name": (
        "Invalidate",
        Invalidate(target=Target(resource="file:" + "/a" * 65)),
        "target.resource",
    ),
    "an unknown scope": ("Get", Get(key=call(scope=7)), "key.scope"),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_a_bad_request_is_refused_by_field(case: str) -> None:
    method, request, field = REFUSED[case]
    async with running_server() as server:
        cache = acme(server)
        error = await ending(
            getattr(cache.stub, method)(request, metadata=cache.metadata, timeout=WAIT_S)
        )
        assert error is not None
        assert error.code is grpc.StatusCode.INVALID_ARGUMENT
        assert (error.reason, error.field) == ("FIELD_INVALID", field)
        assert (await cache.stats()).entries == 0


@pytest.mark.parametrize(
    ("method", "request_"),
    [
        ("Get", Get(key=call())),
        ("GetResourceVersions", Versions()),
        ("Put", a_put()),
        ("Invalidate", Invalidate(target=Target(tool_name="weather"))),
        ("Watch", Watch()),
        ("Stats", Stats()),
    ],
)
async def test_every_method_checks_the_tenant(method: str, request_: object) -> None:
    async with running_server() as server:
        cache = Caller(server.channel, "no tenant!")
        error = await ending(
            getattr(cache.stub, method)(request_, metadata=cache.metadata, timeout=WAIT_S)
        )
        assert error is not None
        assert (error.reason, error.field) == ("FIELD_INVALID", "metadata.precall-tenant")


async def test_the_server_grants_the_cache() -> None:
    async with running_server() as server:
        granted = (await server.info()).capabilities
        assert agent_pb2.CAPABILITY_TOOL_CACHE in granted
        stream = server.stream()
        opened = await stream.open()
        assert agent_pb2.CAPABILITY_TOOL_CACHE in opened.capabilities
        await stream.close()


async def test_an_invalidation_since_the_versions_were_read_refuses_a_put() -> None:
    async with running_server() as server:
        cache = Caller(server.channel)
        read = await cache.stub.GetResourceVersions(
            Versions(resources=["order:7"]), metadata=cache.metadata, timeout=WAIT_S
        )
        await cache.put(observed_versions=read.versions, observed_position=read.position)
        await cache.invalidate(Target(tool_name="weather"))
        error = await cache.put_refused(
            a_put(observed_versions=read.versions, observed_position=read.position)
        )
        assert error.reason == "CACHE_RESOURCE_CHANGED"
        error = await cache.put_refused(a_put(observed_position=read.position + 10**12))
        assert (error.reason, error.field) == ("FIELD_INVALID", "observed_position")
