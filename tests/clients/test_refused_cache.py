"""Requests to the tool cache that the server and the fake server refuse: by reason and field."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration

from precall import ServerLimits
from precall.testing import FakeServer
from precall.v1 import content_pb2, tool_cache_pb2
from tests.clients.refusing import (
    ARGUMENTS_MAX,
    FIELD,
    KINDS,
    LARGE,
    MEDIA,
    SERVED,
    UNSET,
    named,
    parts,
    what,
)
from tests.support.cache_service import (
    Caller,
    Get,
    Invalidate,
    Put,
    Stats,
    Target,
    Versions,
    a_put,
    call,
    of_conversation,
)
from tests.support.stream import WAIT_S, connected, ending, running_server

ENTRY_MAX = 1 << 20


@asynccontextmanager
async def cache_of(kind: str, *, tenant: str = "acme") -> AsyncGenerator[Caller]:
    """Yields the cache of a server with the limits above."""
    if kind == "service":
        async with running_server(tools={"arguments_bytes_max": ARGUMENTS_MAX}) as server:
            yield Caller(server.channel, tenant)
        return
    limits = ServerLimits(arguments_bytes_max=ARGUMENTS_MAX)
    async with FakeServer(limits=limits) as fake, connected(fake.address) as channel:
        yield Caller(channel, tenant)


def observing(*names: str, version: int = 0) -> Put:
    seen = [tool_cache_pb2.ResourceVersion(resource=name, version=version) for name in names]
    return a_put(observed_versions=seen)


def lasting(**fields: int) -> Put:
    return a_put(ttl=Duration(**fields))


def costing(**fields: int) -> Put:
    return a_put(recompute_cost=Duration(**fields))


def holding(*content: content_pb2.ContentPart) -> Put:
    return a_put(content=content)


WITHOUT_TTL = Put(key=call(), result_json="1")
NAMES = [f"file:/{number}" for number in range(65)]
VERSION = tool_cache_pb2.ToolVersion
KEYS: list[tuple[str, str, tool_cache_pb2.CacheKey]] = [
    *((FIELD, "tool_name", call(tool_name=name)) for name in ("", "no spaces", "x" * 65)),
    *((FIELD, "tool_version", call(tool_version=version)) for version in ("", "\u00e9" * 65)),
    *((FIELD, "conversation_id", of_conversation(name)) for name in ("", "a/b", "x" * 129)),
    (FIELD, "conversation_id", call(conversation_id="c")),
    (FIELD, "scope", call(scope=3)),
    *(
        (FIELD, "arguments_json", call(text))
        for text in (
            "", "[1]", "null", "{'a':1}", '{"a":NaN}', '{"a":1e999}', '{"a":1,"a":1}',
            '{"a":[9007199254740992]}', r'{"a":"\ud800"}', r'{"\ud800":1}',
        )
    ),
    (LARGE, "arguments_json", call(f'{{"a":"{"x" * ARGUMENTS_MAX}"}}')),
]  # fmt: skip
REQUESTS: list[tuple[str, str, Any]] = [
    *((reason, f"key.{field}", Get(key=key)) for reason, field, key in KEYS),
    *((reason, f"key.{field}", a_put(key)) for reason, field, key in KEYS),
    *((reason, f"target.key.{name}", Invalidate(target=Target(key=k))) for reason, name, k in KEYS),
    (FIELD, "key", Get()),
    (FIELD, "key", Put()),
    *(
        (FIELD, "result_json", a_put(result_json=text))
        for text in ("", "x", "[NaN]", '{"a":1,"a":1}')
    ),
    (LARGE, "result_json", a_put(result_json=f'"{"x" * ENTRY_MAX}"')),
    (LARGE, "result_json", holding(content_pb2.ContentPart(text="x" * ENTRY_MAX))),
    (FIELD, "content[0]", holding(UNSET)),
    (SERVED, "", holding(MEDIA)),
    (LARGE, "content", holding(*parts(257))),
    (FIELD, "ttl", WITHOUT_TTL),
    *((FIELD, "ttl", lasting(seconds=seconds)) for seconds in (0, -1, 604_801, 2**63 - 1)),
    (FIELD, "ttl", lasting(nanos=-1)),
    (FIELD, "recompute_cost", costing(nanos=-1)),
    (FIELD, "recompute_cost", costing(seconds=86_401)),
    *(
        (FIELD, "observed_versions[1].resource", observing("a:b", name))
        for name in ("", "c", "file:/a/../b", "file:/*/b", "a:" + "b/" * 64 + "c", "a:b")
    ),
    (LARGE, "observed_versions", observing(*NAMES)),
    (FIELD, "observed_versions[0].version", observing("a:b", version=2**62)),
    (FIELD, "observed_position", a_put(observed_position=2**62)),
    ("CACHE_VERSION_MISMATCH", "expected_entry_version", a_put(expected_entry_version=1)),
    (FIELD, "target", Invalidate()),
    (FIELD, "target.tool_name", Invalidate(target=Target(tool_name=""))),
    (FIELD, "target.tool_version.tool_name", Invalidate(target=Target(tool_version=VERSION()))),
    (
        FIELD,
        "target.tool_version.tool_version",
        Invalidate(target=Target(tool_version=VERSION(tool_name="a"))),
    ),
    (FIELD, "target.resource", Invalidate(target=Target(resource="no-scheme"))),
    (FIELD, "target.conversation_id", Invalidate(target=Target(conversation_id=""))),
    (FIELD, "target.conversation_id", Invalidate(target=Target(conversation_id="*"))),
    (LARGE, "resources", Versions(resources=NAMES)),
    (FIELD, "resources[1]", Versions(resources=["a:b", "a:"])),
]
METHODS = {Get: "Get", Put: "Put", Invalidate: "Invalidate", Versions: "GetResourceVersions"}


@pytest.mark.parametrize("kind", KINDS)
async def test_requests(kind: str) -> None:
    async with cache_of(kind) as cache:
        for name, (reason, field, request) in zip(named(REQUESTS), REQUESTS, strict=True):
            method = getattr(cache.stub, METHODS[type(request)])
            error = await ending(method(request, metadata=cache.metadata, timeout=WAIT_S))
            assert what(error) == (reason, field), name
        assert (await cache.stats()).entries == 0


@pytest.mark.parametrize("kind", KINDS)
async def test_what_has_changed(kind: str) -> None:
    async with cache_of(kind) as cache:
        await cache.put()
        position = await cache.invalidate(Target(resource="a:b"))
        assert what(await cache.put_refused(observing("a:*"))) == (
            "CACHE_RESOURCE_CHANGED",
            "observed_versions",
        )
        await cache.put_refused(observing("a:*", version=position + 1))
        request = observing("a:*", version=position)
        await cache.stub.Put(request, metadata=cache.metadata, timeout=WAIT_S)


@pytest.mark.parametrize("kind", KINDS)
async def test_equal_arguments_have_one_entry(kind: str) -> None:
    async with cache_of(kind) as cache:
        await cache.put(call('{"b": 1.0, "a": "\u00e9"}'))
        assert (await cache.get(call(r'{"a":"\u00e9","b":1}'))).result_json == "21"


@pytest.mark.parametrize("kind", KINDS)
async def test_tenants(kind: str) -> None:
    async with cache_of(kind, tenant="a b") as cache:
        error = await ending(cache.stub.Stats(Stats(), metadata=cache.metadata, timeout=WAIT_S))
        assert what(error) == (FIELD, "metadata.precall-tenant")
