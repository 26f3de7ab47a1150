"""A run that several calls share, after the call that started it was cancelled."""

from __future__ import annotations

import dataclasses

from precall_service.domain.events import Invoke, ToolCallProgress
from tests.support.agent import agent
from tests.support.cached import JOINED, RAN, READ, completed, read, together
from tests.support.clock import settle

ONE_READ = dataclasses.replace(READ, max_concurrency=1)


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


async def test_a_run_that_was_not_sent_yet_is_left_to_another_call() -> None:
    """A client could not handle an invocation for a turn that has ended."""
    first = [read("/x"), read("/y")]
    async with agent(*together(first, read("/y"), read("/x"))) as there:
        starter, other, third = (there.open(ONE_READ) for _ in range(3))
        await starter.send()
        await other.send()
        await third.send()
        assert len(starter.of(Invoke)) == 1, "the second call waits for the slot"
        starter.conversation.cancel_turn("")
        await settle()
        assert [each.arguments_json for each in other.of(Invoke)] == [read("/y")[1]]
        await other.answer(0, '"y"')
        assert completed(other) == [(RAN, '"y"')]
        await starter.answer(0, '"x"')
        assert completed(third) == [(JOINED, '"x"')]
        assert len(starter.of(Invoke)) == 1
