"""Equal calls in flight share one run, and no run is shared or stored across a write."""

from __future__ import annotations

from precall_service.domain.events import (
    Invoke,
    ResultSource,
    ToolCallCompleted,
    ToolCallOutcome,
    ToolCallProgress,
)
from precall_service.tools.link import HandlerError
from tests.support.agent import agent, agent_limits, agent_on, scripted
from tests.support.cached import (
    CACHED,
    JOINED,
    RAN,
    READ,
    WRITE,
    Handler,
    completed,
    read,
    together,
    turns,
    write,
)
from tests.support.clock import settle
from tests.support.scripts import calls, says


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
    async with agent_on(engine, limits=agent_limits(conversations_max=100)) as there:
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
        await other.ask()  # it was stored, although the turn that started it was cancelled
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
