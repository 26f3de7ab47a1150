"""Calls that wait for a slot of their tool."""

from __future__ import annotations

from precall_service.domain.errors import Reason
from precall_service.domain.events import ToolCallOutcome
from precall_service.tools.declarations import ToolProposal
from precall_service.tools.gate import COMMITTED_WAITING_MAX
from precall_service.tools.run import CANCEL_TIMEOUT_S
from tests.support.calls import TIMEOUT_S, Calls, ending, message


async def test_concurrency_is_first_come_first_served(calls: Calls) -> None:
    cities = ["Rome", "Oslo", "Bern", "Kyiv"]
    made = [await calls.call(f'{{"city":"{city}"}}') for city in cities]
    assert len(calls.link.invocations) == 2
    made[2].cancel()
    await calls.answer(0)
    assert [each.arguments_json for each in calls.link.invocations][2:] == ['{"city":"Kyiv"}']
    await calls.answer(1)
    await calls.answer(2)
    assert made[2].cancelled()


async def test_waiting_for_a_slot_has_the_bound_of_the_tool(calls: Calls) -> None:
    for _ in range(2):
        await calls.call()
    await calls.advance(1.0)
    waiting = await calls.call()
    await calls.answer(0)
    await calls.answer(1)
    await calls.answer(2)
    assert ending(waiting) == (ToolCallOutcome.RESULT, None)

    calls.register(read_only=True)
    busy = [await calls.call() for _ in range(2)]
    calls.link.taking = False
    stuck = await calls.call()
    await calls.advance(TIMEOUT_S)
    assert ending(stuck) == (ToolCallOutcome.TIMEOUT, Reason.TOOL_TIMEOUT)
    assert "this one did not run" in message(stuck)
    await calls.advance(CANCEL_TIMEOUT_S)
    assert {ending(each)[0] for each in busy} == {ToolCallOutcome.TIMEOUT}


async def test_too_many_wait(calls: Calls) -> None:
    made = [await calls.call() for _ in range(2 + COMMITTED_WAITING_MAX + 1)]
    assert ending(made[-1]) == (ToolCallOutcome.ERROR, Reason.OVERLOADED)
    assert str(COMMITTED_WAITING_MAX) in message(made[-1])
    calls.dispatcher.link_lost(calls.link)


async def test_withdrawn_tool_ends_later_calls_and_waiting_ones(calls: Calls) -> None:
    tool = calls.tool
    made = [await calls.call() for _ in range(3)]
    calls.toolset.withdraw(["weather"])
    later = await calls.call(tool=tool)
    assert ending(later) == (ToolCallOutcome.UNAVAILABLE, Reason.TOOL_UNAVAILABLE)
    await calls.answer(0)
    await calls.answer(1)
    assert [ending(each)[0] for each in made] == [
        ToolCallOutcome.RESULT,
        ToolCallOutcome.RESULT,
        ToolCallOutcome.UNAVAILABLE,
    ]
    assert "no longer offered" in message(made[2])


async def test_updated_tool_takes_over_waiting_calls(calls: Calls) -> None:
    before = calls.tool
    made = [await calls.call() for _ in range(4)]
    calls.add(
        ToolProposal(
            name="weather",
            version="2",
            input_schema_json='{"type":"object","properties":{"city":{"maxLength":3}}}',
        )
    )
    # The current declaration has more slots, and stricter arguments.
    later = await calls.call('{"city":"Ulm"}', tool=before)
    assert [each.tool_version for each in calls.link.invocations][2:] == ["2"]
    assert [ending(each) for each in made[2:]] == [
        (ToolCallOutcome.ERROR, Reason.ARGUMENTS_INVALID)
    ] * 2
    for index in range(3):
        await calls.answer(index)
    assert ending(later) == (ToolCallOutcome.RESULT, None)
