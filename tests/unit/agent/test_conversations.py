"""All conversations of a process: their limit, and their drain."""

from __future__ import annotations

import asyncio

import pytest

from precall_service.domain.errors import Reason, ServiceError
from precall_service.domain.events import GoAway, TurnOutcome
from tests.support.agent import Agent, agent, agent_limits
from tests.support.clock import settle
from tests.support.scripts import Pause, says


def refused(there: Agent, reason: Reason) -> ServiceError:
    before = len(there.conversations)
    with pytest.raises(ServiceError) as caught:
        there.open()
    assert caught.value.reason is reason
    assert caught.value.retry_after_s is not None
    assert len(there.conversations) == before
    return caught.value


async def test_the_number_of_conversations_is_limited() -> None:
    async with agent(limits=agent_limits(conversations_max=2)) as there:
        ids = {there.open().conversation.conversation_id for _ in range(2)}
        assert len(ids) == 2
        error = refused(there, Reason.OVERLOADED)
        assert "conversations_max" in error.message
        assert not error.metadata, "a tenant does not learn how many others have"


async def test_a_conversation_that_ends_makes_room() -> None:
    async with agent(limits=agent_limits(conversations_max=1)) as there:
        client = there.open()
        refused(there, Reason.OVERLOADED)
        await client.close()
        there.leave_all()
        assert len(there.conversations) == 0
        there.open()


async def test_a_drain_without_conversations_ends_immediately() -> None:
    async with agent() as there:
        await there.conversations.drain(0.0)
        refused(there, Reason.DRAINING)


async def test_a_drain_lets_turns_finish() -> None:
    hold = asyncio.Event()
    async with agent([Pause(hold), *says("Yes.")]) as there:
        idle, busy = there.open(), there.open()
        await busy.send()
        draining = asyncio.create_task(there.conversations.drain(30.0))
        await settle()
        for client in (idle, busy):
            assert client.of(GoAway) == [GoAway(30.0, "the server is shutting down")]
        assert idle.running.done()
        assert not busy.running.done()
        refused(there, Reason.DRAINING)

        hold.set()
        await settle()
        assert busy.ending().outcome is TurnOutcome.ANSWERED
        assert not draining.done(), "their streams have not ended yet"
        there.leave_all()
        await draining
        for client in (idle, busy):
            assert client.conversation.error is not None
            assert client.conversation.error.reason is Reason.DRAINING


async def test_a_drain_ends_turns_that_do_not_end_in_time() -> None:
    async with agent([Pause(asyncio.Event())]) as there:
        client = there.open()
        await client.send()
        await there.conversations.drain(0.0)
        await settle()
        ending = client.ending()
        assert ending.outcome is TurnOutcome.FAILED
        assert ending.error is not None
        assert ending.error.reason is Reason.DRAINING
        assert client.running.done()


async def test_a_drain_that_is_cancelled_ends_all_conversations_immediately() -> None:
    async with agent([Pause(asyncio.Event())]) as there:
        client = there.open()
        await client.send()
        draining = asyncio.create_task(there.conversations.drain(30.0))
        await settle()
        draining.cancel()
        await asyncio.wait([draining])
        await settle()
        assert client.ending().outcome is TurnOutcome.FAILED
        assert client.running.done()
