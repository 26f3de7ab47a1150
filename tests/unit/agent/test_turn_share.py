"""Where a turn's time goes, and its share of the engine."""

from __future__ import annotations

import asyncio
from dataclasses import astuple, replace

from precall_service.admission.growth import PRIOR
from precall_service.domain.errors import Reason
from precall_service.domain.events import (
    StepCompleted,
    StepStarted,
    ToolCallCompleted,
    TurnCompleted,
    TurnOutcome,
    TurnQueued,
    TurnStarted,
)
from precall_service.tools.link import HandlerResult
from tests.support.agent import (
    HOLD_S,
    LIMITS,
    OSLO,
    ROME,
    WEATHER,
    agent,
    agent_limits,
    agent_on,
    scripted,
)
from tests.support.clock import settle
from tests.support.scripts import Pause, calls, says

# Where the time goes.


async def test_the_report_tells_where_the_time_went() -> None:
    thinking, finding = asyncio.Event(), asyncio.Event()
    steps = (
        [Pause(thinking), *says("See: "), *calls(ROME, OSLO)],
        [Pause(finding), *says("Sunny.")],
    )
    async with agent(*steps) as there:
        there.resize(slots=0)
        client = there.open(WEATHER)
        await client.send()
        await there.advance(1.0)
        there.resize()
        await settle()
        assert client.of(TurnStarted) == [TurnStarted(1.0)]
        await there.advance(2.0)
        thinking.set()
        await settle()
        await there.advance(3.0)
        await client.answer(1)
        await there.advance(0.5)
        await client.answer(0)
        await there.advance(0.25)
        finding.set()
        await settle()

        report = client.ending().report
        assert report.queue_time_s == 1.0
        assert report.time_to_first_token_s == 3.0
        assert report.generation_time_s == 2.25
        assert report.tool_time_exposed_s == 3.5
        assert report.continuation_time_s == 0.25
        assert report.wall_time_s == 6.75
        assert (report.steps, report.tool_calls) == (2, 2)
        first, second = (completed.usage for completed in client.of(StepCompleted))
        both = zip(astuple(first), astuple(second), strict=True)
        assert astuple(report.usage) == tuple(map(sum, both))
        assert second.cached_tokens > 0
        assert [call.wait_time_s for call in client.of(ToolCallCompleted)] == [3.0, 3.5]


async def test_the_wait_time_of_a_call_begins_when_it_is_ready() -> None:
    more = asyncio.Event()
    async with agent([*calls(ROME), Pause(more), *calls(OSLO, first=1)], says(".")) as there:
        client = there.open(WEATHER)
        await client.send()
        await there.advance(2.0)
        more.set()
        await settle()
        await there.advance(3.0)
        await client.answer(0)
        await client.answer(1)
        assert [call.wait_time_s for call in client.of(ToolCallCompleted)] == [5.0, 3.0]


async def test_a_turn_without_output_has_no_time_to_first_token() -> None:
    async with agent([]) as there:
        ending = await there.open().ask()
        assert (ending.outcome, ending.text) == (TurnOutcome.ANSWERED, "")
        assert ending.report.time_to_first_token_s is None


# Its share of the engine.


async def test_a_turn_waits_for_admission() -> None:
    first, second = asyncio.Event(), asyncio.Event()
    steps = ([Pause(first), *says("1")], [Pause(second), *says("2")], says("3"))
    async with agent(*steps) as there:
        there.resize(slots=1)
        clients = [there.open() for _ in range(3)]
        for client in clients:
            await client.send()
        assert [client.of(TurnQueued) for client in clients] == [
            [],
            [TurnQueued(0)],
            [TurnQueued(1)],
        ]
        assert len(there.engine.prompts) == 1
        first.set()
        await settle()
        assert clients[0].ending().text == "1"
        await there.advance(1.0)
        assert clients[2].of(TurnQueued) == [TurnQueued(1), TurnQueued(0)]
        second.set()
        await settle()
        assert [client.ending().text for client in clients] == ["1", "2", "3"]


async def test_a_full_queue_refuses_a_turn() -> None:
    async with agent() as there:
        there.resize(slots=0)
        limit = there.admission.limits.waiting_per_tenant_max
        shares = [there.admission.enter("ann", 1) for _ in range(limit)]
        client = there.open()
        ending = await client.ask()
        assert ending.outcome is TurnOutcome.FAILED
        assert ending.error is not None
        assert ending.error.reason is Reason.OVERLOADED
        assert ending.error.retry_after_s is not None
        for share in shares:
            there.admission.release(share)


async def test_a_turn_that_waits_too_long_fails_as_overloaded() -> None:
    async with agent(says("Yes.")) as there:
        there.resize(slots=0)
        client = there.open()
        await client.send()
        wait_max_s = there.admission.limits.wait_max_s
        await there.advance(wait_max_s - 1)
        assert client.of(TurnCompleted) == []
        await there.advance(1)
        error = client.ending().error
        assert error is not None
        assert error.reason is Reason.OVERLOADED
        assert error.retry_after_s is not None
        there.resize()
        assert (await client.ask()).text == "Yes."


async def test_a_turn_that_waits_too_long_without_an_engine_fails_as_engine_unavailable() -> None:
    async with agent() as there:
        there.resize(slots=0)
        client = there.open()
        await client.send()
        there.engine.die()
        await settle()
        await there.advance(there.admission.limits.wait_max_s)
        error = client.ending().error
        assert error is not None
        assert error.reason is Reason.ENGINE_UNAVAILABLE


async def test_a_turn_with_a_slow_tool_gives_its_share_to_others() -> None:
    async with agent(calls(ROME), says("Other."), says("Sunny.")) as there:
        there.resize(slots=1)
        slow, other = there.open(WEATHER), there.open()
        await slow.send()
        await other.send()
        await there.advance(HOLD_S - 0.1)
        assert other.of(TurnStarted) == []
        await there.advance(0.1)
        assert other.ending().text == "Other."
        await slow.answer()
        assert slow.ending().text == "Sunny."


async def test_a_turn_that_gave_up_its_share_resumes_before_new_turns() -> None:
    hold = asyncio.Event()
    steps = (calls(ROME), [Pause(hold), *says("Other.")], says("Sunny."), says("New."))
    async with agent(*steps) as there:
        there.resize(slots=1)
        slow, other, new = there.open(WEATHER), there.open(), there.open()
        await slow.send()
        await other.send()
        await there.advance(HOLD_S)
        await new.send()
        await slow.answer()
        await there.advance(1.0)
        assert slow.of(StepStarted)[1:] == []
        assert new.of(TurnQueued) == [TurnQueued(0), TurnQueued(1)]
        hold.set()
        await settle()
        assert [client.ending().text for client in (slow, other, new)] == [
            "Sunny.",
            "Other.",
            "New.",
        ]


async def test_the_growth_of_answered_turns_is_remembered() -> None:
    steps = [calls(ROME), says("Sunny.")] * 4
    async with agent(*steps) as there:
        client = there.open(WEATHER, handler=lambda invocation: HandlerResult("12345"))
        grown: list[int] = []
        for _ in range(4):
            await client.ask()
            first, second = there.engine.prompts[-2:]
            grown.append(len(second) + len("Sunny.") + 1 - len(first))
        [expected] = set(grown)
        assert there.growth.expected("ann", "anything", safe=10_000) == expected
        assert there.growth.expected("bob", "anything", safe=10_000) == PRIOR


async def test_the_growth_of_a_turn_cut_by_a_limit_is_not_remembered() -> None:
    async with agent(*[says("x" * 100)] * 4, *[calls(ROME)] * 4) as there:
        client = there.open(WEATHER)
        for limits in (replace(LIMITS, max_turn_tokens=50), replace(LIMITS, max_steps=1)):
            for _ in range(4):
                assert (await client.ask(limits=limits)).outcome is TurnOutcome.LIMIT
        assert there.growth.expected("ann", "", safe=10_000) == PRIOR


async def test_the_growth_of_a_cancelled_turn_is_not_remembered() -> None:
    """Its full growth is unknown. If many of them counted, too many turns would be admitted."""
    stuck = Pause(asyncio.Event())
    async with agent(*[[*says("x" * 100), stuck] for _ in range(4)]) as there:
        client = there.open()
        for n in range(4):
            await client.send(turn_id=f"t{n}")
            client.conversation.cancel_turn("")
            await settle()
        assert there.growth.expected("ann", "", safe=10_000) == PRIOR


async def test_a_cut_turn_that_grew_more_than_expected_is_remembered() -> None:
    """Else turns that are always cut would always be expected to be short."""
    async with agent(*[says("x" * 3 * PRIOR)] * 4) as there:
        client = there.open()
        for _ in range(4):
            ending = await client.ask(limits=replace(LIMITS, max_turn_tokens=2 * PRIOR))
            assert ending.outcome is TurnOutcome.LIMIT
        assert there.growth.expected("ann", "", safe=10_000) == 2 * PRIOR


async def test_the_first_turns_of_a_server_start_at_once() -> None:
    """Each was expected to fill its context, so a fresh server with 16 slots let in five."""
    stuck = Pause(asyncio.Event())
    engine = scripted(
        script=lambda _prompt, _spec: [stuck, *says("Yes.")],
        sequences_max=16,
        kv_tokens=23_000,
        context_tokens_max=8192,
    )
    async with agent_on(engine, limits=agent_limits(conversations_max=16)) as there:
        clients = [there.open(tenant=f"tenant-{number % 3}") for number in range(16)]
        for client in clients:
            await client.send(limits=replace(LIMITS, max_turn_tokens=32_768))
        assert there.admission.admitted == 16
        assert all(client.of(TurnStarted) for client in clients)
        stuck.event.set()
        await settle()


async def test_a_turn_that_outgrew_its_share_keeps_others_out() -> None:
    hold = asyncio.Event()
    async with agent(calls(ROME), [Pause(hold), *says("Sunny.")], says("Other.")) as there:
        there.resize(kv_tokens=700)
        for _ in range(8):
            there.growth.observe("ann", "anything", 1)
        large, other = there.open(WEATHER), there.open(tenant="bob")
        await large.send()
        await large.answer(result_json="1" * 500)
        await other.send(limits=replace(LIMITS, max_turn_tokens=100))
        assert other.of(TurnQueued) == [TurnQueued(0)]
        hold.set()
        await settle()
        assert other.ending().text == "Other."


async def test_tokens_generated_beyond_the_share_keep_others_out() -> None:
    long = says("x" * 500)
    async with agent(long + calls(ROME), says("Sunny."), says("Other.")) as there:
        there.resize(kv_tokens=700)
        for _ in range(8):
            there.growth.observe("ann", "anything", 1)
        large, other = there.open(WEATHER), there.open(tenant="bob")
        await large.send()
        await other.send(limits=replace(LIMITS, max_turn_tokens=100))
        assert other.of(TurnQueued) == [TurnQueued(0)], (
            "the turn keeps its share while its tools run"
        )
        await large.answer()
        assert other.ending().text == "Other."
