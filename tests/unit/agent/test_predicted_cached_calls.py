"""Predictions of calls that can be cached: the cache answers them, and keeps what they computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from precall_service.agent.known_calls import LOOK_UPS_MAX, KnownCalls
from precall_service.cache.base import Change, ChangeKind, Entry, Origin
from precall_service.cache.cache import ToolCache
from precall_service.cache.query import cache_query
from precall_service.domain.events import (
    CancelInvocation,
    DiscardReason,
    Invoke,
    PredictionConfirmed,
    PredictionLaunched,
    PredictionProposed,
    PredictionReady,
    ResultSource,
    ToolCallCompleted,
)
from precall_service.domain.events import Predictor as PredictorName
from precall_service.domain.tools import CacheScope
from precall_service.speculation.base import Predictor, Situation
from precall_service.speculation.predictors.cached import CachePredictor
from precall_service.tools.declarations import ToolProposal, declare
from precall_service.tools.link import HandlerResult
from tests.support.agent import Agent, Client, agent_on, scripted
from tests.support.cached import WRITE, write
from tests.support.predictors import named, situation
from tests.support.scripts import calls, says
from tests.support.speculating import (
    CACHED_READ,
    Thinking,
    Told,
    first_step,
    reading,
    reasons,
    story,
)
from tests.support.tools import tool_limits

READ_A, READ_B = ("read", '{"path": "/a"}'), ("read", '{"path": "/b"}')
EARLY, CACHED, RAN = ResultSource.SPECULATIVE, ResultSource.CACHE, ResultSource.COMMITTED
OWN = replace(CACHED_READ, cache_scope=CacheScope.CONVERSATION)


def cache_predictor(cache: ToolCache) -> Sequence[Predictor]:
    return [CachePredictor(KnownCalls(cache))]


def sources(client: Client) -> list[ResultSource]:
    return [each.source for each in client.of(ToolCallCompleted)]


async def entry(there: Agent, path: str = "/a", tenant: str = "ann") -> Entry | None:
    declaration = declare(CACHED_READ, tool_limits()).declaration
    query = cache_query(tenant, "", declaration, {"path": path})
    assert query is not None
    lookup = await there.cache.find(query)
    return None if lookup is None else lookup.entry


# What early runs leave in the cache.


@pytest.mark.parametrize("answered", ["before the call", "after the call"])
async def test_a_confirmed_result_enters_the_cache(answered: str) -> None:
    thinking = Thinking()
    told = Told(first_step(reading()))
    steps = [thinking.then(READ_A), says("done"), calls(READ_A), says("done")]
    async with agent_on(scripted(*steps), predictors=[told]) as there:
        client = there.open(CACHED_READ)
        await client.send()
        await there.advance(2.0)
        if answered == "before the call":
            await client.answer(0, '"early"')
        assert await entry(there) is None, "it is no call yet"
        await thinking.on()
        if answered == "after the call":
            await client.answer(0, '"early"')
        kept = await entry(there)
        assert kept is not None
        assert kept.value.origin is Origin.SPECULATIVE
        assert (kept.value.result_json, kept.value.cost_s) == ('"early"', 2.0)
        assert kept.value.execution_id == client.of(Invoke)[0].execution_id
        await client.ask()
        assert sources(client) == [EARLY, CACHED]


async def test_a_discarded_result_does_not_enter_the_cache() -> None:
    thinking = Thinking()
    told = Told(first_step(reading("/b")))
    steps = [thinking.then(READ_A), says("done")]
    async with agent_on(scripted(*steps), predictors=[told]) as there:
        client = there.open(CACHED_READ)
        await client.send()
        await client.answer(0)
        await thinking.on()
        await client.answer(1)
        assert await entry(there) is not None
        assert await entry(there, "/b") is None


async def test_a_stale_result_does_not_enter_the_cache() -> None:
    thinking = Thinking()
    told = Told(first_step(reading()))
    steps = [thinking.then(READ_A), calls(write("/a")), says("written"), says("done")]
    async with agent_on(scripted(*steps), predictors=[told]) as there:
        client, other = there.open(CACHED_READ), there.open(WRITE)
        await client.send()
        await client.answer(0, '"old"')
        await other.send()
        await other.answer()
        await thinking.on()
        assert reasons(client) == [DiscardReason.STALE_RESOURCE]
        assert there.speculation.records.of("ann").tool("read").of(PredictorName.FORK).resolved == 1
        await client.answer(1, '"new"')
        kept = await entry(there)
        assert kept is not None
        assert (kept.value.origin, kept.value.result_json) == (Origin.COMMITTED, '"new"')


async def test_a_run_that_a_write_overtook_after_its_call_answers_it_but_is_not_kept() -> None:
    thinking = Thinking()
    told = Told(first_step(reading()))
    steps = [thinking.then(READ_A), calls(write("/a")), says("written"), says("done")]
    async with agent_on(scripted(*steps), predictors=[told]) as there:
        client, other = there.open(CACHED_READ), there.open(WRITE)
        await client.send()
        await thinking.on()
        await other.send()
        await other.answer()
        await client.answer(0)
        assert sources(client) == [EARLY]
        assert await entry(there) is None


async def test_equal_calls_share_the_early_run_that_one_has_claimed() -> None:
    thinking = Thinking()
    told = Told(first_step(reading()))
    steps = [thinking.then(READ_A, READ_A), calls(READ_A), says("done"), says("done")]
    async with agent_on(scripted(*steps), predictors=[told]) as there:
        client, other = there.open(CACHED_READ), there.open(CACHED_READ)
        await client.send()
        await thinking.on()
        await other.send()
        await client.answer(0)
        assert len(client.of(Invoke)) + len(other.of(Invoke)) == 1
        assert sources(client) == [EARLY, ResultSource.JOINED]
        assert sources(other) == [ResultSource.JOINED]


# What the cache does for predictions.


async def test_a_prediction_that_the_cache_answers_is_ready_at_once() -> None:
    thinking = Thinking()
    told = Told(first_step(reading()))
    steps = [calls(READ_A), says("done"), thinking.then(READ_A), says("done")]
    async with agent_on(scripted(*steps), predictors=[told]) as there:
        client = there.open(CACHED_READ)
        await client.send()
        await there.advance(2.0)
        await client.answer(0)
        turn = await client.send()
        assert story(client) == ["proposed read /a", "ready read /a"]
        await thinking.on()
        assert story(client)[2:] == ["confirmed read /a"]
        assert sources(client) == [RAN, CACHED]
        assert len(client.of(Invoke)) == 1
        assert client.of(PredictionReady)[0].run_time_s == 0
        report = client.ending(turn).report
        assert (report.cache_hits, report.predictions_confirmed) == (1, 1)
        assert (report.tool_time_hidden_s, report.saved_by_overlap_s) == (0, 0)
        record = there.speculation.records.of("ann").tool("read").of(PredictorName.FORK)
        assert (record.resolved, record.matched, record.confirmed) == (1, 1, 1)


async def test_a_cached_result_that_becomes_stale_is_not_used() -> None:
    thinking = Thinking()
    told = Told(first_step(reading()))
    steps = [calls(READ_A), says("done"), thinking.then(READ_A), says("done")]
    async with agent_on(scripted(*steps), predictors=[told]) as there:
        client = there.open(CACHED_READ)
        await client.send()
        await there.advance(2.0)
        await client.answer(0, '"old"')
        turn = await client.send()
        await there.cache.invalidate("ann", Change(kind=ChangeKind.RESOURCE, names=("file:/a",)))
        await thinking.on()
        await client.answer(1, '"new"')
        assert [each.result_json for each in client.of(ToolCallCompleted)] == ['"old"', '"new"']
        assert client.ending(turn).report.predictions_confirmed == 0
        assert reasons(client) == [DiscardReason.STALE_RESOURCE]
        assert there.speculation.records.of("ann").tool("read").of(PredictorName.FORK).resolved == 1


async def test_a_prediction_of_a_call_that_is_in_flight_does_not_run() -> None:
    thinking = Thinking()
    told = Told(first_step(reading()))
    steps = [calls(READ_A), thinking.then(READ_A), says("done"), says("done")]
    async with agent_on(scripted(*steps), predictors=[told]) as there:
        other, client = there.open(CACHED_READ), there.open(CACHED_READ)
        await other.send()
        assert len(other.of(Invoke)) == 1
        await client.send()
        assert story(client) == ["proposed read /a"]
        await thinking.on()
        await other.answer(0)
        assert reasons(client) == [DiscardReason.DUPLICATE]
        assert sources(client) == [ResultSource.JOINED]
        assert not client.of(Invoke)


async def test_a_call_that_the_cache_can_answer_by_now_stops_its_early_run() -> None:
    thinking = Thinking()
    told = Told(lambda each: first_step(reading())(each) if each.text == "early" else ())
    steps = [thinking.then(READ_A), calls(READ_A), says("done"), says("done")]
    async with agent_on(scripted(*steps), predictors=[told]) as there:
        client, other = there.open(CACHED_READ), there.open(CACHED_READ)
        await client.send("early")
        await other.send()
        await other.answer(0)
        await thinking.on()
        assert sources(client) == [CACHED]
        assert reasons(client) == [DiscardReason.DUPLICATE]
        assert len(client.of(CancelInvocation)) == 1


# The predictor of cached calls.


async def test_a_call_of_an_earlier_turn_is_predicted_from_the_cache() -> None:
    thinking = Thinking()
    steps = [calls(READ_A), says("done"), thinking.then(READ_A), says("done")]
    async with agent_on(scripted(*steps), predictors=cache_predictor) as there:
        client = there.open(CACHED_READ)
        await client.send()
        await there.advance(2.0)
        await client.answer(0)
        turn = await client.send()
        [proposed] = client.of(PredictionProposed)
        assert proposed.confidence == pytest.approx(1 / 3)
        await thinking.on()
        assert len(client.of(PredictionConfirmed)) == 1
        assert not client.of(PredictionLaunched)
        assert client.ending(turn).report.predictions_confirmed == 1


@pytest.mark.parametrize(
    ("tool", "tenant", "predicted"),
    [(CACHED_READ, "ann", True), (OWN, "ann", False), (CACHED_READ, "bob", False)],
    ids=["of the tenant", "of another conversation", "of another tenant"],
)
async def test_a_call_is_predicted_only_where_its_result_may_be_used(
    tool: ToolProposal, tenant: str, predicted: bool
) -> None:
    thinking = Thinking()
    steps = [calls(READ_A), says("done"), thinking.then()]
    async with agent_on(scripted(*steps), predictors=cache_predictor) as there:
        await there.open(tool, handler=lambda _: HandlerResult("1")).ask()
        client = there.open(tool, tenant=tenant)
        await client.send()
        assert bool(client.of(PredictionProposed)) is predicted
        await thinking.on()


async def known(there: Agent, where: Situation) -> list[tuple[str, int]]:
    return [(each.arguments_json, each.uses) for each in await KnownCalls(there.cache)(where)]


async def test_known_calls_are_those_that_still_have_a_result() -> None:
    async with agent_on(scripted(*[calls(READ_A), calls(READ_B), says("done")])) as there:
        client = there.open(CACHED_READ, handler=lambda _: HandlerResult("1"))
        await client.ask()
        declaration = declare(CACHED_READ, tool_limits()).declaration
        where = replace(
            situation("", tools=named(declaration)),
            conversation_id=client.conversation.conversation_id,
        )
        assert sorted(await known(there, where)) == [('{"path":"/a"}', 1), ('{"path":"/b"}', 1)]
        assert await known(there, replace(where, tenant="bob")) == []
        assert await known(there, replace(where, tools={})) == []
        newer = replace(declaration, version="2")
        assert await known(there, replace(where, tools=named(newer))) == []
        await there.cache.invalidate("ann", Change(kind=ChangeKind.RESOURCE, names=("file:/a",)))
        assert await known(there, where) == [('{"path":"/b"}', 1)]
        there.clock.advance(61.0)
        assert await known(there, where) == []


async def test_only_so_many_calls_are_looked_up() -> None:
    paths = [f"/{number}" for number in range(LOOK_UPS_MAX + 3)]
    steps = [calls(*(("read", f'{{"path": "{path}"}}') for path in paths)), says("done")]
    async with agent_on(scripted(*steps)) as there:
        client = there.open(CACHED_READ, handler=lambda _: HandlerResult("1"))
        await client.ask()
        declaration = declare(CACHED_READ, tool_limits()).declaration
        assert len(await known(there, situation("", tools=named(declaration)))) == LOOK_UPS_MAX
