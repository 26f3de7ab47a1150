"""Calls of cacheable tools: answered from the cache, by an equal run in flight, or by a run."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from precall_service.cache.base import Change, ChangeKind, Origin, StoreUnavailableError, Value
from precall_service.cache.keys import cache_key
from precall_service.domain.errors import ServiceError
from precall_service.domain.events import (
    Invoke,
    ResultSource,
    ToolCallCompleted,
    ToolCallOutcome,
    ToolCallProgress,
)
from precall_service.domain.tools import CacheScope, ToolEffects
from precall_service.tools.declarations import ToolProposal
from precall_service.tools.link import HandlerAnswer, HandlerError, HandlerResult
from precall_tracing.turns import Tracer
from tests.support.agent import Agent, Client, agent, agent_on, scripted
from tests.support.clock import settle
from tests.support.scripts import Item, calls, says
from tests.support.tools import CITY_SCHEMA

FILE_SCHEMA = '{"type": "object", "properties": {"path": {}}}'
READ = ToolProposal(
    name="read",
    version="1",
    input_schema_json=FILE_SCHEMA,
    effects=ToolEffects(read_only=True, reads=("file:{path}",)),
    cache_ttl_s=60.0,
    cache_scope=CacheScope.TENANT,
    timeout_s=20.0,
)
LIST = dataclasses.replace(
    READ, name="list", effects=ToolEffects(read_only=True, reads=("file:{path}/*",))
)
WRITE = ToolProposal(
    name="write",
    input_schema_json=FILE_SCHEMA,
    effects=ToolEffects(writes=("file:{path}",)),
    timeout_s=20.0,
)
SHELL = ToolProposal(name="shell", input_schema_json=FILE_SCHEMA, timeout_s=20.0)
WEATHER = ToolProposal(
    name="weather",
    input_schema_json=CITY_SCHEMA,
    effects=ToolEffects(read_only=True),
    cache_ttl_s=60.0,
    timeout_s=20.0,
)


def read(path: str = "/a/b") -> tuple[str, str]:
    return ("read", f'{{"path": "{path}"}}')


def write(path: str = "/a/b") -> tuple[str, str]:
    return ("write", f'{{"path": "{path}"}}')


SHELL_CALL = ("shell", '{"path": "rm"}')


def turns(*called: tuple[str, str] | Sequence[tuple[str, str]]) -> list[list[Item]]:
    """The steps of turns that each make the calls given, and then answer."""
    steps: list[list[Item]] = []
    for each in called:
        group = [each] if isinstance(each[0], str) else each
        steps += [list(calls(*group)), list(says("done"))]  # pyright: ignore[reportArgumentType]
    return steps


def together(*called: tuple[str, str] | Sequence[tuple[str, str]]) -> list[list[Item]]:
    """The steps of turns that begin one after the other, before any of them is answered."""
    steps = turns(*called)
    return steps[::2] + steps[1::2]


class Handler:
    """Answers each invocation with its number, or as told."""

    def __init__(self) -> None:
        self.invocations: list[Invoke] = []
        self.answer: HandlerAnswer | None = None
        self.waits = False

    def __call__(self, invocation: Invoke) -> HandlerAnswer | None:
        self.invocations.append(invocation)
        if self.waits:
            return None
        return self.answer or HandlerResult(
            str(len(self.invocations)), f"run {len(self.invocations)}"
        )

    @property
    def names(self) -> list[str]:
        return [invocation.tool_name for invocation in self.invocations]


def completed(client: Client) -> list[tuple[ResultSource, str]]:
    return [(each.source, each.result_json) for each in client.of(ToolCallCompleted)]


RAN, CACHED, JOINED = ResultSource.COMMITTED, ResultSource.CACHE, ResultSource.JOINED


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


# One run for equal calls in flight.


async def test_equal_calls_in_flight_share_one_run() -> None:
    async with agent(*together([read(), read()], read())) as there:
        client = there.open(READ)
        await client.send()
        other = there.open(READ)
        await other.send()
        [invocation] = [*client.of(Invoke), *other.of(Invoke)]
        client.conversation.progress(invocation.invocation_id, "half", 0.5)
        await client.answer(0, '"x"')
        assert completed(client) == [(RAN, '"x"'), (JOINED, '"x"')]
        assert completed(other) == [(JOINED, '"x"')]
        assert len(client.of(ToolCallProgress)) == 2
        assert len(other.of(ToolCallProgress)) == 1
        assert (await there.cache.stats("ann")).joined == 2


async def test_many_equal_calls_have_one_run() -> None:
    first = calls(read())
    engine = scripted(*[first] * 100, *[says("done")] * 100)
    async with agent_on(engine) as there:
        there.conversations.limits = dataclasses.replace(
            there.conversations.limits, conversations_max=100
        )
        there.resize(slots=100)
        clients = [there.open(READ) for _ in range(100)]
        for client in clients:
            await client.send()
        invocations = [each for client in clients for each in client.of(Invoke)]
        assert len(invocations) == 1
        await clients[0].answer(0)
        await settle()
        sources = [source for client in clients for source, _ in completed(client)]
        assert sorted(source.name for source in sources) == ["COMMITTED", *["JOINED"] * 99]


async def test_the_call_that_started_a_run_may_be_cancelled_without_harm_to_others() -> None:
    async with agent(*together(read(), read())[:3], *turns(read())) as there:
        leader, other = there.open(READ), there.open(READ)
        turn_id = await leader.send()
        await other.send()
        leader.conversation.cancel_turn(turn_id)
        await settle()
        assert [each.outcome for each in leader.of(ToolCallCompleted)] == [
            ToolCallOutcome.CANCELLED
        ]
        await leader.answer(0, '"late"')
        assert completed(other) == [(JOINED, '"late"')]
        await other.ask()  # it was stored, although the one who started it had left
        assert completed(other)[1] == (CACHED, '"late"')


async def test_a_run_that_nobody_waits_for_any_more_is_discarded() -> None:
    async with agent(*together(read(), read(), read())[:3]) as there:
        one, other = there.open(READ), there.open(READ)
        first = await one.send()
        second = await other.send()
        one.conversation.cancel_turn(first)
        await settle()
        assert there.dispatcher.in_flight == 1
        other.conversation.cancel_turn(second)
        await settle()
        assert there.dispatcher.in_flight == 0
        await one.send()
        assert len(one.of(Invoke)) == 2


async def test_if_the_process_of_a_shared_run_leaves_another_runs_the_call() -> None:
    async with agent(*together(read(), read(), read())) as there:
        leader, one, other = (there.open(READ) for _ in range(3))
        for client in (leader, one, other):
            await client.send()
        await leader.vanish()
        await settle()
        assert len(one.of(Invoke)) + len(other.of(Invoke)) == 1
        runner = one if one.of(Invoke) else other
        await runner.answer(0, '"again"')
        assert {*completed(one), *completed(other)} == {(RAN, '"again"'), (JOINED, '"again"')}


async def test_the_error_of_a_shared_run_ends_every_call_that_shares_it() -> None:
    async with agent(*together(read(), read())) as there:
        one, other = there.open(READ), there.open(READ)
        await one.send()
        await other.send()
        await one.deliver(HandlerError("E", "broken"))
        for client in (one, other):
            [ended] = client.of(ToolCallCompleted)
            assert (ended.outcome, ended.source) == (
                ToolCallOutcome.ERROR,
                ResultSource.UNSPECIFIED,
            )


async def test_a_run_that_began_before_a_write_is_not_shared_after_it() -> None:
    async with agent(
        *together(read(), write())[:3], *together(read(), read())[:1], *[says("done")] * 3
    ) as there:
        reader, writer, later = (there.open(READ, WRITE) for _ in range(3))
        await reader.send()
        await writer.send()
        await writer.answer(0)
        await later.send()
        assert len(later.of(Invoke)) == 1, "it must not get what was read before the write"
        await later.answer(0, '"new"')
        await reader.answer(0, '"old"')
        assert completed(reader) == [(RAN, '"old"')]
        assert completed(later) == [(RAN, '"new"')]
        assert (await there.cache.stats("ann")).entries == 1


async def test_a_read_that_overlapped_a_write_is_not_stored() -> None:
    async with agent(*together(read(), write()), calls(read()), says("done")) as there:
        reader, writer = there.open(READ, WRITE), there.open(READ, WRITE)
        await reader.send()
        await writer.send()
        await writer.answer(0)
        await reader.answer(0, '"old"')
        await reader.send()
        assert len(reader.of(Invoke)) == 2


async def test_a_read_that_began_during_a_write_is_stale_when_the_write_ends() -> None:
    async with agent(*together(write(), read()), calls(read()), says("done")) as there:
        writer, reader = there.open(READ, WRITE), there.open(READ, WRITE)
        await writer.send()
        await reader.send()
        await reader.answer(0, '"between"')
        await writer.answer(0)
        await reader.send()
        assert len(reader.of(Invoke)) == 2


# Writes whose turns end early.


async def test_a_cancelled_write_counts_and_so_does_its_late_answer() -> None:
    async with agent(*turns(read()), calls(write()), *turns(read(), read(), read())) as there:
        handler = Handler()
        reader, writer = there.open(READ, handler=handler), there.open(READ, WRITE)
        await reader.ask()
        turn_id = await writer.send()
        writer.conversation.cancel_turn(turn_id)
        await settle()
        await reader.ask()
        assert completed(reader)[1] == (RAN, "2")
        await writer.answer(0)  # it had its effect after all
        await reader.ask()
        assert completed(reader)[2] == (RAN, "3")
        await reader.ask()
        assert completed(reader)[3] == (CACHED, "3")


async def test_a_write_that_failed_counts() -> None:
    async with agent(*turns(read(), write(), read())) as there:
        handler = Handler()
        client, writer = there.open(READ, handler=handler), there.open(WRITE)
        await client.ask()
        await writer.send()
        await writer.deliver(HandlerError("E", "half done"))
        await client.ask()
        assert completed(client)[1] == (RAN, "2")


async def test_a_write_is_recorded_before_its_result_reaches_the_model() -> None:
    """The next step of the same turn reads what the write left."""
    handler = Handler()
    steps = [calls(read()), calls(write()), calls(read()), says("done")]
    async with agent(*steps) as there:
        client = there.open(READ, WRITE, handler=handler)
        await client.ask()
        assert handler.names == ["read", "write", "read"]


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
    await there.cache.put(key, value, [], None)


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
