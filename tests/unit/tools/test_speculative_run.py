"""Runs for predicted calls: started without a call, given to one later, and behind every other."""

from __future__ import annotations

from dataclasses import replace

import pytest

from precall_service.domain.errors import Reason
from precall_service.domain.events import InvocationCancelReason, ToolCallOutcome
from precall_service.domain.tools import ToolEffects
from precall_service.tools.declarations import ToolProposal
from precall_service.tools.gate import SPECULATIVE_WAITING_MAX
from tests.support.calls import (
    CONTEXT,
    ROME,
    SAFE,
    TIMEOUT_S,
    Calls,
    ending,
    message,
)
from tests.support.clock import settle
from tests.support.tools import CITY_SCHEMA

# The ending.


async def test_a_speculative_run_says_so_and_may_be_answered(calls: Calls) -> None:
    run = await calls.guess("p")
    [invocation] = calls.link.invocations
    assert (invocation.call_id, invocation.prediction_id) == ("", "p")
    assert (run.call_id, run.prediction_id, run.speculative) == ("", "p", True)
    await calls.answer(result_json="1")
    assert ending(run) == (ToolCallOutcome.RESULT, None)
    run.commit("c")
    assert not run.speculative
    await settle()
    assert calls.link.commits == []


async def test_a_commit_is_told_once(calls: Calls) -> None:
    run = await calls.guess()
    run.commit("c")
    run.commit("c")
    await settle()
    assert calls.link.commits == [(run.invocation_id, "c")]
    with pytest.raises(ValueError, match="'c' cannot answer call 'd'"):
        run.commit("d")
    with pytest.raises(ValueError, match="cannot answer call ''"):
        run.commit("")
    assert run.call_id == "c"
    await calls.answer()


async def test_a_run_of_a_call_is_not_told_of_its_commit(calls: Calls) -> None:
    run = await calls.launch(call_id="c")
    run.commit("c")
    await settle()
    assert calls.link.commits == []
    await calls.answer()


async def test_a_commit_while_the_invocation_waits_to_be_sent_follows_it(calls: Calls) -> None:
    calls.link.taking = False
    run = await calls.guess()
    run.commit("c")
    calls.link.taking = True
    await settle()
    assert calls.link.invocations[0].call_id == ""
    assert calls.link.commits == [(run.invocation_id, "c")]
    await calls.answer()


async def test_an_ending_overtakes_a_commit_that_waits_to_be_sent(calls: Calls) -> None:
    runs = [await calls.guess() for _ in range(2)]
    calls.link.taking = False
    for run in runs:
        run.commit(f"of-{run.invocation_id}")
    await settle()
    await calls.answer(0)
    assert ending(runs[0]) == (ToolCallOutcome.RESULT, None)
    await calls.advance(TIMEOUT_S)
    assert ending(runs[1]) == (ToolCallOutcome.TIMEOUT, Reason.TOOL_TIMEOUT)
    calls.link.taking = True
    await settle()
    assert calls.link.commits == []
    assert calls.link.cancels == [(runs[1].invocation_id, InvocationCancelReason.TIMEOUT)]


async def test_a_run_that_was_committed_while_it_waited_starts_as_one_of_a_call(
    calls: Calls,
) -> None:
    busy = [await calls.launch(call_id=f"busy-{number}") for number in range(2)]
    guess, promoted = await calls.guess(), await calls.guess()
    call = await calls.launch(call_id="c")
    promoted.commit("p")
    for _ in range(2):
        await calls.answer(len(calls.link.invocations) - 2)
    assert [each.call_id for each in calls.link.invocations[2:]] == ["c", "p"]
    assert (guess.sent, promoted.sent, call.sent) == (False, True, True)
    await calls.answer(2)
    await calls.answer(3)
    assert guess.sent
    assert calls.link.commits == []
    await calls.answer(4)
    assert all(run.ended for run in (*busy, guess, promoted, call))


async def test_a_commit_before_the_run_has_begun_makes_it_one_of_a_call(calls: Calls) -> None:
    calls.register(effects=SAFE)
    run = calls.dispatcher.launch(tool=calls.tool, arguments_json=ROME, context=CONTEXT)
    run.commit("c")
    await settle()
    assert [each.call_id for each in calls.link.invocations] == ["c"]
    assert calls.link.commits == []
    await calls.answer()


async def test_too_many_speculative_runs_end_and_displace_no_call(calls: Calls) -> None:
    busy = [await calls.launch(call_id=f"busy-{number}") for number in range(2)]
    call = await calls.launch(call_id="c")
    guesses = [await calls.guess() for _ in range(SPECULATIVE_WAITING_MAX + 1)]
    assert ending(guesses[-1]) == (ToolCallOutcome.ERROR, Reason.OVERLOADED)
    assert not any(run.ended for run in (*busy, call, *guesses[:-1]))
    calls.dispatcher.link_lost(calls.link)
    await settle()
    assert ["did not run" in message(run) for run in (*busy, call)] == [False, False, True]


async def test_a_speculative_run_does_not_start_with_other_effects(calls: Calls) -> None:
    for number in range(2):
        await calls.launch(call_id=f"busy-{number}")
    guess, promoted = await calls.guess(), await calls.guess()
    calls.add(
        ToolProposal(
            name="weather",
            input_schema_json=CITY_SCHEMA,
            effects=ToolEffects(writes=("city:{city}",)),
            timeout_s=TIMEOUT_S,
            max_concurrency=2,
        )
    )
    promoted.commit("p")
    await calls.answer(0)
    await calls.answer(1)
    assert ending(guess) == (ToolCallOutcome.UNAVAILABLE, Reason.TOOL_UNAVAILABLE)
    assert "did not run" in message(guess)
    assert promoted.sent
    await calls.answer(2)


# Runs that are no longer wanted.


@pytest.mark.parametrize(
    "effects",
    [
        ToolEffects(),
        ToolEffects(read_only=True),
        ToolEffects(speculation_safe=True),
        replace(SAFE, open_world=True),
    ],
)
async def test_a_tool_that_is_not_declared_safe_never_runs_early(
    calls: Calls, effects: ToolEffects
) -> None:
    calls.register(effects=effects)
    with pytest.raises(ValueError, match="may not run early"):
        await calls.launch(call_id="")
    assert not calls.link.asked


async def test_a_call_evicts_the_youngest_speculative_run_that_holds_a_slot(calls: Calls) -> None:
    older, younger = await calls.guess(), await calls.guess()
    assert older.sent
    assert younger.sent
    call = await calls.launch(call_id="c")
    assert ending(younger) == (ToolCallOutcome.CANCELLED, Reason.CANCELLED)
    discarded = InvocationCancelReason.PREDICTION_DISCARDED
    assert calls.link.cancels == [(younger.invocation_id, discarded)]
    assert call.sent
    assert older.ended is None
    older.commit("d")
    other = await calls.launch(call_id="e")
    assert older.ended is None
    assert not other.sent
    calls.dispatcher.link_lost(calls.link)
