"""A run that several calls share, after the call that started it was cancelled."""

from __future__ import annotations

import dataclasses

import pytest

from precall_service.domain.events import Invoke, ToolCallProgress
from tests.support.agent import agent
from tests.support.cached import JOINED, READ, completed, read, together
from tests.support.clock import settle

PROGRESS_HOLE = pytest.mark.xfail(
    strict=True, reason="a call that no longer waits for a run is still told its progress"
)
INVOKE_HOLE = pytest.mark.xfail(
    strict=True, reason="a run that others wait for is invoked for a turn that has ended"
)
ONE_READ = dataclasses.replace(READ, max_concurrency=1)


@PROGRESS_HOLE
async def test_its_progress_is_told_to_the_calls_that_still_wait() -> None:
    async with agent(*together(read(), read())) as there:
        starter, other = there.open(READ), there.open(READ)
        await starter.send()
        await other.send()
        starter.conversation.cancel_turn("")
        await settle()
        run = starter.of(Invoke)[0]
        starter.conversation.progress(run.invocation_id, "half", 0.5)
        await settle()
        assert len(other.of(ToolCallProgress)) == 1
        assert not starter.of(ToolCallProgress), "progress of a call that has ended"
        await starter.answer()
        assert completed(other) == [(JOINED, "1")]


@PROGRESS_HOLE
async def test_a_call_that_joined_and_was_cancelled_hears_no_more_of_it() -> None:
    async with agent(*together(read(), read())) as there:
        starter, other = there.open(READ), there.open(READ)
        await starter.send()
        await other.send()
        other.conversation.cancel_turn("")
        await settle()
        starter.conversation.progress(starter.of(Invoke)[0].invocation_id, "half", 0.5)
        await settle()
        assert not other.of(ToolCallProgress), "progress of a call that has ended"
        await starter.answer()


@pytest.mark.parametrize("wait_first", [False, pytest.param(True, marks=INVOKE_HOLE)])
async def test_a_run_that_still_waits_for_its_slot_is_invoked_in_order(wait_first: bool) -> None:
    """The client that holds the handler must be able to make sense of the invocation."""
    first = [read("/x"), read("/y")]
    async with agent(*together(first, read("/y"), read("/x"))) as there:
        starter, other, third = (there.open(ONE_READ) for _ in range(3))
        await starter.send()
        await other.send()
        if wait_first:
            await third.send()
        assert len(starter.of(Invoke)) == 1
        starter.conversation.cancel_turn("")
        await settle()
        if wait_first:
            await starter.answer(0)
        await starter.answer(1)
        assert completed(other) == [(JOINED, "1")]
