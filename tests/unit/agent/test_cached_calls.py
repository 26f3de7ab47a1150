"""Calls of cacheable tools: answered from the cache, by an equal run in flight, or by a run."""

from __future__ import annotations

import asyncio
import dataclasses

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from precall_service.cache.base import (
    Change,
    ChangeKind,
    Observation,
    Origin,
    StoreUnavailableError,
    Value,
)
from precall_service.cache.keys import cache_key
from precall_service.domain.errors import ServiceError
from precall_service.domain.events import (
    Invoke,
    ToolCallCompleted,
    ToolCallOutcome,
)
from precall_service.domain.tools import CacheScope
from precall_service.tools.link import HandlerAnswer, HandlerError, HandlerResult
from precall_tracing.turns import Tracer
from tests.support.agent import Agent, agent
from tests.support.cached import (
    CACHED,
    LIST,
    RAN,
    READ,
    SHELL,
    SHELL_CALL,
    WEATHER,
    WRITE,
    Handler,
    completed,
    read,
    turns,
    write,
)
from tests.support.clock import settle


async def test_a_second_equal_call_is_answered_from_the_cache() -> None:
    handler = Handler()
    async with agent(*turns(read(), read())) as there:
        client = there.open(READ, handler=handler)
        first = await client.ask()
        await there.advance(3)
        second = await client.ask()
        assert completed(client) == [(RAN, "1"), (CACHED, "1")]
        hit = client.of(ToolCallCompleted)[1]
        assert hit.cache_age_s == 3
        assert hit.cache_entry_version > 0
        assert [part.text for part in hit.content] == ["run 1"]
        assert (first.report.cache_hits, second.report.cache_hits) == (0, 1)
        stats = await there.cache.stats("ann")
        assert (stats.hits, stats.misses, stats.entries) == (1, 1, 1)


async def test_arguments_are_equal_in_their_canonical_form() -> None:
    handler = Handler()
    one = ("read", '{"path": "x", "n": 1.0, "m": [true]}')
    other = ("read", '{ "m":[true],"n":1,"path":"\\u0078" }')
    async with agent(*turns(one, other)) as there:
        client = there.open(READ, handler=handler)
        await client.ask()
        await client.ask()
        assert completed(client) == [(RAN, "1"), (CACHED, "1")]


async def test_arguments_without_a_canonical_form_are_not_cached() -> None:
    handler = Handler()
    huge = ("read", '{"path": 9007199254740993}')
    async with agent(*turns(huge, huge)) as there:
        client = there.open(READ, handler=handler)
        await client.ask()
        await client.ask()
        assert completed(client) == [(RAN, "1"), (RAN, "2")]


@pytest.mark.parametrize(
    ("between", "stale"),
    [
        (write("/a/b"), True),
        (write("/a"), False),
        (write("/a/b/c"), False),
        (write("/a/c"), False),
        (write("/a/*"), True),  # an argument that is a wildcard writes all that it may mean
        (("write", "{}"), True),
        (("write", '{"path": ["/x"]}'), True),
        (SHELL_CALL, True),
    ],
)
async def test_a_read_after_a_write_runs_again_if_they_conflict(
    between: tuple[str, str], stale: bool
) -> None:
    handler = Handler()
    async with agent(*turns(read(), between, read())) as there:
        client = there.open(READ, WRITE, SHELL, handler=handler)
        for _ in range(3):
            await client.ask()
        assert completed(client)[2] == ((RAN, "3") if stale else (CACHED, "1"))
        assert (await there.cache.stats("ann")).stale == stale


@pytest.mark.parametrize(("path", "stale"), [("/a/b", True), ("/a/b/c", True), ("/a", False)])
async def test_a_read_of_a_whole_is_stale_after_a_write_below_it(path: str, stale: bool) -> None:
    handler = Handler()
    listing = ("list", '{"path": "/a"}')
    async with agent(*turns(listing, write(path), listing)) as there:
        client = there.open(LIST, WRITE, handler=handler)
        for _ in range(3):
            await client.ask()
        assert (completed(client)[2][0] is RAN) == stale


async def test_the_scope_decides_which_conversations_share_a_result() -> None:
    handler = Handler()
    rome = ("weather", '{"city":"Rome"}')
    steps = turns([read(), rome], [read(), rome], [read(), rome])
    async with agent(*steps) as there:
        first = there.open(READ, WEATHER, handler=handler)
        second = there.open(READ, WEATHER, handler=handler)
        stranger = there.open(READ, WEATHER, handler=handler, tenant="bob")
        for client in (first, second, stranger):
            await client.ask()
        assert [source for source, _ in completed(first)] == [RAN, RAN]
        assert [source for source, _ in completed(second)] == [CACHED, RAN]
        assert [source for source, _ in completed(stranger)] == [RAN, RAN]


async def test_an_undeclared_write_touches_only_its_own_conversation() -> None:
    handler = Handler()
    async with agent(*turns(read(), SHELL_CALL, read(), read())) as there:
        first = there.open(READ, SHELL, handler=handler)
        second = there.open(READ, SHELL, handler=handler)
        await first.ask()
        await first.ask()
        await second.ask()
        assert completed(second) == [(CACHED, "1")]
        await first.ask()
        assert completed(first)[2] == (RAN, "3")


async def test_a_result_is_not_used_for_longer_than_its_time_to_live() -> None:
    handler = Handler()
    async with agent(*turns(read(), read(), read())) as there:
        client = there.open(READ, handler=handler)
        await client.ask()
        await there.advance(59)
        await client.ask()
        await there.advance(1)
        await client.ask()
        assert completed(client) == [(RAN, "1"), (CACHED, "1"), (RAN, "2")]


async def test_a_shorter_time_to_live_holds_for_older_results_at_once() -> None:
    handler = Handler()
    async with agent(*turns(read(), read())) as there:
        client = there.open(READ, handler=handler)
        await client.ask()
        await there.advance(10)
        await client.conversation.register_tools(1, [dataclasses.replace(READ, cache_ttl_s=5.0)])
        await client.ask()
        assert completed(client) == [(RAN, "1"), (RAN, "2")]


async def test_a_new_version_of_a_tool_makes_older_results_unreachable() -> None:
    handler = Handler()
    async with agent(*turns(read(), read())) as there:
        client = there.open(READ, handler=handler)
        await client.ask()
        await client.conversation.register_tools(1, [dataclasses.replace(READ, version="2")])
        await client.ask()
        assert completed(client) == [(RAN, "1"), (RAN, "2")]


@pytest.mark.parametrize(
    "answer",
    [
        HandlerError("E", "failed"),
        HandlerResult("{", ""),
        HandlerResult(f'"{"x" * 2000}"'),
    ],
    ids=["error", "not JSON", "over the limit of a result"],
)
async def test_what_is_no_result_is_never_stored(answer: HandlerAnswer) -> None:
    handler = Handler()
    handler.answer = answer
    async with agent(*turns(read(), read())) as there:
        client = there.open(READ)
        for number in (1, 2):
            await client.send()
            try:
                await client.deliver(answer, number - 1)
            except ServiceError:
                await settle()
        assert len(client.of(Invoke)) == 2
        assert (await there.cache.stats("ann")).entries == 0


async def test_a_result_over_the_limit_of_an_entry_reaches_the_model_and_is_not_stored() -> None:
    handler = Handler()
    async with agent(*turns(read(), read())) as there:
        there.cache.limits = dataclasses.replace(there.cache.limits, entry_bytes_max=4)
        client = there.open(READ, handler=handler)
        await client.ask()
        await client.ask()
        assert completed(client) == [(RAN, "1"), (RAN, "2")]


async def test_a_tool_without_a_time_to_live_stores_nothing() -> None:
    handler = Handler()
    plain = dataclasses.replace(READ, cache_ttl_s=0.0)
    async with agent(*turns(read(), read())) as there:
        client = there.open(plain, handler=handler)
        await client.ask()
        await client.ask()
        assert completed(client) == [(RAN, "1"), (RAN, "2")]
        stats = await there.cache.stats("ann")
        assert (stats.hits, stats.misses, stats.entries) == (0, 0, 0)


# Entries that clients store, and a store that fails.


async def put(there: Agent, result_json: str, *, path: str = "/a/b") -> None:
    key = cache_key(
        tenant="ann",
        scope=CacheScope.TENANT,
        conversation_id="",
        tool_name="read",
        tool_version="1",
        arguments={"path": path},
    )
    value = Value(
        result_json=result_json,
        content="",
        execution_id="",
        origin=Origin.PUT,
        cost_s=1.0,
        ttl_s=60.0,
    )
    await there.cache.put(key, value, Observation(), None)


async def test_a_result_that_a_client_put_answers_a_call() -> None:
    async with agent(*turns(read())) as there:
        client = there.open(READ)
        await put(there, '"put"')
        await client.ask()
        assert completed(client) == [(CACHED, '"put"')]


async def test_a_put_without_resources_is_stale_after_a_write_to_what_the_tool_reads() -> None:
    handler = Handler()
    async with agent(*turns(write(), read())) as there:
        client = there.open(READ, WRITE, handler=handler)
        await put(there, '"put"')
        await client.ask()
        await client.ask()
        assert completed(client)[1] == (RAN, "2")


async def test_a_put_that_breaks_the_output_schema_is_not_used() -> None:
    handler = Handler()
    numbers = dataclasses.replace(READ, output_schema_json='{"type": "integer"}')
    async with agent(*turns(read(), read())) as there:
        client = there.open(numbers, handler=handler)
        await put(there, '"text"')
        await client.ask()
        await client.ask()
        assert completed(client) == [(RAN, "1"), (CACHED, "1")]
        stats = await there.cache.stats("ann")
        assert (stats.hits, stats.misses) == (1, 1), "what cannot be used is no hit"


async def test_an_invalidated_entry_is_not_used() -> None:
    handler = Handler()
    async with agent(*turns(read(), read())) as there:
        client = there.open(READ, handler=handler)
        await client.ask()
        await there.cache.invalidate("ann", Change(kind=ChangeKind.TOOL, names=("read",)))
        await client.ask()
        assert completed(client) == [(RAN, "1"), (RAN, "2")]


async def test_without_its_store_every_call_runs_and_no_turn_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def fail(*_: object, **__: object) -> None:
        raise StoreUnavailableError("gone")

    handler = Handler()
    async with agent(*turns([read(), read()], write(), read())) as there:
        for name in ("look_up", "put", "announce", "advance"):
            monkeypatch.setattr(there.store, name, fail)
        client = there.open(READ, WRITE, handler=handler)
        for _ in range(3):
            ending = await client.ask()
            assert ending.error is None
        assert handler.names == ["read", "read", "write", "read"]
        assert {source for source, _ in completed(client)} == {RAN}
        assert (await there.cache.stats("ann")).store_failures >= 3


async def test_a_slow_store_holds_up_no_cancel(monkeypatch: pytest.MonkeyPatch) -> None:
    async def hang(*_: object, **__: object) -> None:
        await asyncio.Event().wait()

    async with agent(*turns(read())) as there:
        monkeypatch.setattr(there.store, "look_up", hang)
        client = there.open(READ)
        turn_id = await client.send()
        client.conversation.cancel_turn(turn_id)
        await settle()
        assert client.of(ToolCallCompleted)[0].outcome is ToolCallOutcome.CANCELLED


async def test_the_spans_say_where_a_result_came_from(
    tracer: Tracer, exporter: InMemorySpanExporter
) -> None:
    handler = Handler()
    async with agent(*turns(read(), read()), tracer=tracer) as there:
        client = there.open(READ, handler=handler)
        await client.ask()
        await there.advance(2)
        await client.ask()
        version = client.of(ToolCallCompleted)[1].cache_entry_version
    spans = [dict(span.attributes or {}) for span in exporter.get_finished_spans()]
    tools = [each for each in spans if each["gen_ai.operation.name"] == "execute_tool"]
    assert [each["precall.tool.result_source"] for each in tools] == ["committed", "cache"]
    assert "precall.tool.cache.age" not in tools[0]
    assert tools[1]["precall.tool.cache.age"] == 2
    assert tools[1]["precall.tool.cache.entry_version"] == version
    agents = [each for each in spans if each["gen_ai.operation.name"] == "invoke_agent"]
    assert [each["precall.turn.cache_hits"] for each in agents] == [0, 1]


async def test_writes_of_a_tenant_that_has_no_use_for_the_cache_are_not_recorded() -> None:
    handler = Handler()
    async with agent(*turns(SHELL_CALL, read(), SHELL_CALL, read())) as there:
        client = there.open(READ, SHELL, handler=handler)
        await client.ask()
        assert not there.store.concerns("ann")
        for _ in range(3):
            await client.ask()
        assert completed(client)[3] == (RAN, "4")
