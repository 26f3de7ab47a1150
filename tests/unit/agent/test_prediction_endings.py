"""However a turn ends, each prediction ends once, and each run that is not used is stopped once."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from dataclasses import dataclass, replace

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from precall_service.domain.errors import Reason, ServiceError
from precall_service.domain.events import (
    CancelInvocation,
    DiscardReason,
    Invoke,
    PredictionDiscarded,
    PredictionLaunched,
    PredictionProposed,
    Predictor,
    ResultSource,
    ToolCallCompleted,
    TurnOutcome,
)
from precall_service.speculation.base import Moment, Proposal, Situation
from precall_service.speculation.limits import SpeculationLimits
from precall_service.tools.link import HandlerError, HandlerResult
from precall_tracing.turns import Tracer
from tests.support.agent import LIMITS, Agent, Client, agent_on, scripted
from tests.support.clock import settle
from tests.support.scripts import says
from tests.support.speculating import (
    ALWAYS,
    BOOK,
    WEATHER,
    StoreSwitch,
    Thinking,
    Told,
    first_step,
    following,
    proposal,
    reasons,
    story,
    weather,
)

ROME, OSLO = ("weather", '{"city": "Rome"}'), ("weather", '{"city": "Oslo"}')
CANCELLED, TURN_ENDED = DiscardReason.CANCELLED, DiscardReason.TURN_ENDED
NOT_ELIGIBLE, HOST_LOST = DiscardReason.NOT_ELIGIBLE, DiscardReason.HOST_LOST

SHORT = replace(LIMITS, max_duration_s=10.0)


@dataclass(frozen=True)
class Cut:
    """A way in which a turn is cut.

    With it: why a prediction with a result ends and why one whose handler runs, and whether the
    client is told to stop the handler.
    """

    way: Callable[[Agent, Client], Awaitable[None]]
    ready: DiscardReason = CANCELLED
    running: DiscardReason = CANCELLED
    told: bool = True


async def cancel(_there: Agent, client: Client) -> None:
    client.conversation.cancel_turn("")


async def lose_client(_there: Agent, client: Client) -> None:
    await client.vanish()


async def lose_engine(there: Agent, _client: Client) -> None:
    there.engine.die()


async def drain(_there: Agent, client: Client) -> None:
    error = ServiceError(Reason.DRAINING, "the server is shutting down")
    client.conversation.end(error, TurnOutcome.FAILED)


async def run_out_of_time(there: Agent, _client: Client) -> None:
    await there.advance(SHORT.max_duration_s)


async def hang_up(_there: Agent, client: Client) -> None:
    client.conversation.hang_up()
    await settle()
    client.conversation.cancel_turn("")


@pytest.fixture(autouse=True)
def no_defect_is_logged(caplog: pytest.LogCaptureFixture) -> Generator[None]:
    """Checks that no task of speculation failed: it would hurt nothing, and be seen by no one."""
    yield
    records = caplog.get_records("call")
    assert not [each for each in records if "incident" in each.getMessage()]


class AtWork:
    """A predictor that never comes to a proposal."""

    name = Predictor.HISTORY
    moments = frozenset({Moment.STEP_BEGAN})
    begun = 0
    ended = 0

    async def propose(self, situation: Situation) -> AsyncGenerator[Proposal, None]:
        self.begun += 1
        try:
            await asyncio.Event().wait()
            yield weather(situation.text)
        finally:
            self.ended += 1


@pytest.mark.parametrize(
    "cut",
    [
        Cut(cancel),
        Cut(run_out_of_time),
        Cut(lose_engine, TURN_ENDED, TURN_ENDED),
        # Here the stream ends, which ends the client's handlers.
        Cut(drain, told=False),
        Cut(lose_client, told=False),
        Cut(hang_up, CANCELLED, HOST_LOST, told=False),
    ],
    ids=lambda cut: cut.way.__name__,
)
async def test_a_turn_that_is_cut_leaves_no_prediction_and_no_run(
    cut: Cut, tracer: Tracer, exporter: InMemorySpanExporter
) -> None:
    at_work, thinking = AtWork(), Thinking()
    told = Told(first_step(weather(), weather("Oslo"), proposal("book")))
    engines = scripted(thinking.then(ROME)), scripted()
    async with agent_on(*engines, predictors=[told, at_work], tracer=tracer) as there:
        client = there.open(WEATHER, BOOK)
        await client.send(limits=SHORT)
        await client.answer(0)
        assert len(client.of(PredictionLaunched)) == 2
        await cut.way(there, client)
        await settle()
        await there.advance(0.0)
        assert there.speculation.in_flight == 0
        assert there.speculation.records.of("ann").running == 0
        assert there.dispatcher.in_flight == 0
        assert at_work.begun == at_work.ended == 1
        early = client.of(Invoke)[1].invocation_id
        assert [each.invocation_id for each in client.of(CancelInvocation)] == [early] * cut.told
        if cut.way is not lose_client:
            ended = Counter(each.prediction_id for each in client.of(PredictionDiscarded))
            assert ended == Counter(each.prediction_id for each in client.of(PredictionProposed))
    spans = [each for each in exporter.get_finished_spans() if "speculate" in each.name]
    names = sorted(
        str((each.attributes or {})["precall.prediction.discard_reason"]) for each in spans
    )
    assert names == sorted(each.name.lower() for each in (cut.ready, cut.running, NOT_ELIGIBLE))


async def test_a_cancel_while_an_early_run_asks_the_store_starts_nothing() -> None:
    thinking = Thinking()
    told = Told(first_step(weather()))
    async with agent_on(scripted(thinking.then(ROME)), predictors=[told]) as there:
        switch = StoreSwitch(there)
        switch.held = asyncio.Event()
        client = there.open(WEATHER)
        await client.send()
        assert story(client) == ["proposed weather Rome"]
        client.conversation.cancel_turn("")
        await settle()
        switch.held.set()
        await settle()
        assert reasons(client) == [CANCELLED]
        assert not client.of(Invoke)


async def test_a_cancel_while_the_call_asks_the_store_claims_nothing() -> None:
    thinking = Thinking()
    told = Told(first_step(weather()))
    async with agent_on(scripted(thinking.then(ROME)), predictors=[told]) as there:
        switch = StoreSwitch(there)
        client = there.open(WEATHER)
        await client.send()
        switch.held = asyncio.Event()
        await thinking.on()
        client.conversation.cancel_turn("")
        await settle()
        assert reasons(client) == [CANCELLED]
        assert len(client.of(CancelInvocation)) == 1
        switch.held.set()


async def test_a_cancel_after_the_claim_stops_the_run_as_that_of_a_call() -> None:
    thinking = Thinking()
    told = Told(first_step(weather()))
    async with agent_on(scripted(thinking.then(ROME)), predictors=[told]) as there:
        client = there.open(WEATHER)
        await client.send()
        await thinking.on()
        assert story(client)[-1] == "confirmed weather Rome"
        client.conversation.cancel_turn("")
        await settle()
        assert len(client.of(CancelInvocation)) == 1
        assert not client.of(PredictionDiscarded)


@pytest.mark.parametrize("late", [HandlerResult("1"), HandlerError("Late", "sorry")])
async def test_the_late_answer_of_a_discarded_run_changes_nothing(
    late: HandlerResult | HandlerError,
) -> None:
    thinking = Thinking()
    told = Told(first_step(weather()))
    async with agent_on(scripted(thinking.then(OSLO), says("done")), predictors=[told]) as there:
        client = there.open(WEATHER)
        turn = await client.send()
        await thinking.on()
        await client.deliver(late, 0)
        await client.answer(1)
        assert client.ending(turn).outcome is TurnOutcome.ANSWERED
        assert len(client.of(PredictionDiscarded)) == 1


# Hung handlers, and full tools.


async def test_a_hung_early_run_delays_no_call_of_a_tool_with_one_slot() -> None:
    thinking = Thinking()
    told = Told(first_step(weather()))
    single = replace(WEATHER, max_concurrency=1)
    async with agent_on(scripted(thinking.then(OSLO), says("done")), predictors=[told]) as there:
        client = there.open(single)
        await client.send()
        await there.advance(3.0)
        await thinking.on()
        committed = client.of(Invoke)[1]
        assert committed.call_id, "it has started although the early run never answered"
        await client.answer(1)
        assert client.of(ToolCallCompleted)[0].wait_time_s == 0


async def test_a_full_tool_gives_the_place_of_an_early_run_to_a_call() -> None:
    thinking = Thinking()
    told = Told(following(proposal("time", "Oslo"), weather()), moments=ALWAYS)
    single = replace(WEATHER, max_concurrency=1)
    step = thinking.then(("time", '{"city": "Oslo"}'), OSLO)
    steps = [step, thinking.then(ROME), says("done")]
    city_time = replace(WEATHER, name="time")
    async with agent_on(scripted(*steps), predictors=[told]) as there:
        client = there.open(single, city_time)
        await client.send()
        await there.advance(2.0)
        await client.answer(0)
        assert story(client)[-1] == "launched weather Rome"
        await thinking.on(0)
        assert story(client)[-1] == "discarded weather Rome: LOAD"
        assert len(client.of(CancelInvocation)) == 1
        assert client.of(Invoke)[-1].call_id
        await client.answer(-1)
        await thinking.on(1)
        await client.answer(-1)
        sources = [each.source for each in client.of(ToolCallCompleted)]
        assert sources == [ResultSource.SPECULATIVE, ResultSource.COMMITTED, ResultSource.COMMITTED]
        assert there.speculation.records.of("ann").tool("weather").failures == 0


async def test_an_early_run_that_takes_too_long_is_stopped_and_not_waited_for() -> None:
    thinking = Thinking()
    told = Told(first_step(weather()))
    async with agent_on(scripted(thinking.then(ROME), says("done")), predictors=[told]) as there:
        client = there.open(WEATHER)
        await client.send()
        await there.advance(20.0)
        assert reasons(client) == [DiscardReason.HANDLER_TIMEOUT]
        assert len(client.of(CancelInvocation)) == 1
        await thinking.on()
        assert client.of(Invoke)[1].call_id
        await client.answer(1)


async def test_early_runs_that_fail_open_the_breaker_of_the_tool() -> None:
    thinking = Thinking()
    told = Told((weather(),))
    limits = SpeculationLimits(breaker_failures=2, breaker_s=30.0, margin_s=-1000.0)
    steps = [thinking.then() for _ in range(4)]
    async with agent_on(scripted(*steps), predictors=[told], speculation=limits) as there:
        client = there.open(WEATHER)
        for step in range(2):
            await client.send()
            await client.deliver(HandlerError("Busy", "later"))
            await thinking.on(step)
        await client.send()
        await thinking.on(2)
        await there.advance(30.0)
        await client.send()
        await client.answer(-1)
        await thinking.on(3)
        assert [each.name for each in reasons(client)] == [
            "HANDLER_ERROR",
            "HANDLER_ERROR",
            "BREAKER_OPEN",
            "TURN_ENDED",
        ]


async def test_what_one_tenant_does_teaches_nothing_of_another() -> None:
    thinking = Thinking()
    told = Told(first_step(weather()))
    steps = [thinking.then(ROME), says("done"), thinking.then(ROME), says("done")]
    limits = SpeculationLimits(breaker_failures=1)
    async with agent_on(scripted(*steps), predictors=[told], speculation=limits) as there:
        ann, bob = there.open(WEATHER), there.open(WEATHER, tenant="bob")
        await ann.send()
        await ann.deliver(HandlerError("Busy", "later"))
        await thinking.on(0)
        await ann.answer(-1)
        assert list(there.speculation.records.peek("bob").tools()) == []
        await bob.send()
        assert story(bob)[-1] == "launched weather Rome"
        await bob.answer(0)
        await thinking.on(1)
        theirs = there.speculation.records.of("bob").tool("weather")
        assert (theirs.calls, theirs.calls_confirmed, theirs.failures) == (1, 1, 0)
