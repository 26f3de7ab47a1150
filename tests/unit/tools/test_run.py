"""The handle of a run: what its owner may ask of it, and in which order its process is told."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest

from precall_service.domain.errors import Reason
from precall_service.domain.events import InvocationCancelReason, Invoke, ToolCallOutcome
from precall_service.tools.declarations import ToolProposal, declare
from precall_service.tools.dispatch import Dispatcher
from precall_service.tools.link import HandlerError, HandlerResult
from precall_service.tools.run import CANCEL_TIMEOUT_S, Run
from tests.support.calls import CONTEXT, DISCARDED, ROME, Calls, ended, ending, message
from tests.support.clock import ManualClock, settle
from tests.support.links import RecordingLink
from tests.support.tools import new_toolset, tool_limits

# The ending.


async def test_several_wait_for_one_ending(calls: Calls) -> None:
    run = await calls.launch(call_id="c")
    assert (run.sent, run.ended, run.speculative) == (True, None, False)
    first, second, gone = (asyncio.create_task(run.ending()) for _ in range(3))
    await settle()
    gone.cancel()
    await settle()
    assert gone.cancelled()
    assert run.ended is None
    await calls.answer(result_json="7")
    assert first.result() is second.result() is run.ended
    assert (await run.ending()).result_json == "7"
    await run.closed()
    assert calls.link.cancels == []


async def test_cancelling_a_wait_for_the_close_changes_nothing(calls: Calls) -> None:
    run = await calls.launch(call_id="c")
    calls.link.taking = False
    run.discard(InvocationCancelReason.TURN_ENDED)
    first, second = (asyncio.create_task(run.closed()) for _ in range(2))
    await settle()
    first.cancel()
    await settle()
    assert not second.done()
    calls.link.taking = True
    await settle()
    assert second.done()
    assert calls.link.cancels == [(run.invocation_id, InvocationCancelReason.TURN_ENDED)]


async def test_every_failure_is_an_ending(calls: Calls) -> None:
    old = calls.tool
    calls.toolset.withdraw(["weather"])
    run = calls.dispatcher.launch(tool=old, arguments_json="{", context=CONTEXT, call_id="c")
    await settle()
    assert ending(run) == (ToolCallOutcome.UNAVAILABLE, Reason.TOOL_UNAVAILABLE)
    assert not run.sent


async def test_progress_goes_to_every_listener(calls: Calls) -> None:
    run = await calls.launch()
    early: list[str] = []
    late: list[str] = []
    run.on_progress(lambda message, _: early.append(message))
    calls.dispatcher.progress(calls.link, run.invocation_id, "one", None)
    run.on_progress(lambda message, _: late.append(message))
    calls.dispatcher.progress(calls.link, run.invocation_id, "tw\ud800", 0.5)
    assert early == ["one", "tw?"]
    assert late == ["tw?"]
    await calls.answer()


# Speculative runs.


@pytest.mark.parametrize("reason", list(InvocationCancelReason)[1:])
async def test_a_discarded_run_ends_at_once_and_its_late_answer_is_swallowed(
    calls: Calls, reason: InvocationCancelReason
) -> None:
    run = await calls.launch()
    run.discard(reason)
    assert ending(run) == DISCARDED
    assert message(run).endswith("'weather'; whether it took effect is not known")
    run.discard(InvocationCancelReason.DRAINING)
    run.commit("c")
    await run.closed()
    assert calls.link.cancels == [(run.invocation_id, reason)]
    assert calls.link.commits == []
    await calls.dispatcher.deliver(calls.link, run.invocation_id, HandlerResult("1"))
    assert ending(run) == DISCARDED


async def test_a_run_that_has_ended_is_not_discarded(calls: Calls) -> None:
    run = await calls.launch(call_id="c")
    await calls.answer()
    run.discard(InvocationCancelReason.TURN_ENDED)
    await run.closed()
    assert ending(run) == (ToolCallOutcome.RESULT, None)
    assert calls.link.cancels == []


async def test_a_run_that_was_discarded_before_it_was_sent_never_starts(calls: Calls) -> None:
    begun = calls.dispatcher.launch(
        tool=calls.tool, arguments_json=ROME, context=CONTEXT, call_id="c"
    )
    begun.discard(InvocationCancelReason.PREDICTION_DISCARDED)
    for number in range(2):
        await calls.launch(call_id=f"busy-{number}")
    waiting = await calls.launch()
    waiting.discard(InvocationCancelReason.PREDICTION_DISCARDED)
    await calls.answer(0)
    calls.link.taking = False
    sending = await calls.launch()
    sending.discard(InvocationCancelReason.PREDICTION_DISCARDED)
    for run in (begun, waiting, sending):
        assert ending(run) == DISCARDED
        assert "did not run" in message(run)
        assert not run.sent
        await run.closed()
    calls.link.taking = True
    await calls.answer(1)
    assert len(calls.link.invocations) == 2
    assert calls.link.cancels == []


async def test_a_discarded_run_gives_its_slot_to_the_next(calls: Calls) -> None:
    running = [await calls.launch() for _ in range(2)]
    call = await calls.launch(call_id="c")
    running[0].discard(InvocationCancelReason.PREDICTION_DISCARDED)
    await settle()
    assert call.sent
    await calls.answer(1)
    await calls.answer(2)


async def test_close_is_bounded(calls: Calls) -> None:
    run = await calls.launch()
    calls.link.taking = False
    run.discard(InvocationCancelReason.PREDICTION_DISCARDED)
    closing = asyncio.create_task(run.closed())
    await settle()
    await calls.advance(CANCEL_TIMEOUT_S - 0.01)
    assert not closing.done()
    await calls.advance(0.01)
    assert closing.done()
    calls.link.taking = True
    await settle()
    assert calls.link.cancels == []


# Defects.


async def test_a_defect_after_the_run_was_sent_stops_the_handler(
    calls: Calls, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(invocation_id: str, call_id: str) -> None:
        raise RuntimeError(f"defect of {call_id}")

    calls.link.commit = fail
    run, other = await calls.guess(), await calls.guess()
    run.commit("c")
    await run.closed()
    assert ending(run) == (ToolCallOutcome.ERROR, Reason.INTERNAL)
    assert "defect of c" in caplog.text
    assert calls.link.cancels == [(run.invocation_id, InvocationCancelReason.CALL_CANCELLED)]
    await calls.answer(1)
    assert ending(other) == (ToolCallOutcome.RESULT, None)


async def test_a_defect_while_a_handler_is_stopped_ends_nothing_else(
    calls: Calls, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(invocation_id: str, reason: InvocationCancelReason) -> None:
        raise RuntimeError(f"defect at {reason.name}")

    calls.link.cancel = fail
    run, other = await calls.launch(), await calls.launch()
    run.discard(InvocationCancelReason.TURN_ENDED)
    await run.closed()
    assert ending(run) == DISCARDED
    assert "defect at TURN_ENDED" in caplog.text
    await calls.answer(1)
    assert ending(other) == (ToolCallOutcome.RESULT, None)


# Halves of surrogate pairs, which UTF-8 cannot carry.


@pytest.mark.parametrize(
    ("output_schema", "result_json", "outcome"),
    [
        ("", '"\\ud800"', ToolCallOutcome.RESULT),
        ('{"type":"string"}', '"\\ud800"', ToolCallOutcome.RESULT),
        ('{"type":"string","maxLength":1}', '"\\ud800"', ToolCallOutcome.RESULT),
        ('{"type":"object"}', '["\\ud800"]', ToolCallOutcome.ERROR),
        ('{"type":"object"}', '"\\ud800"', ToolCallOutcome.ERROR),
        ('{"properties":{"a":{"enum":["x"]}}}', '{"a":"\\udfff"}', ToolCallOutcome.ERROR),
        ('{"additionalProperties":false}', '{"\\udfff":1}', ToolCallOutcome.ERROR),
    ],
)
async def test_a_result_with_half_a_pair_ends_its_call_at_once(
    calls: Calls, output_schema: str, result_json: str, outcome: ToolCallOutcome
) -> None:
    calls.register(output_schema=output_schema)
    run = await calls.launch(call_id="c")
    if outcome is ToolCallOutcome.RESULT:
        await calls.answer(result_json=result_json)
        assert ended(run).result_json == result_json
    else:
        with pytest.raises(Exception, match="breaks its output schema"):
            await calls.answer(result_json=result_json)
        assert ending(run) == (ToolCallOutcome.ERROR, Reason.RESULT_INVALID)
        message(run).encode()


async def test_a_handler_may_fail_with_half_a_pair(calls: Calls) -> None:
    run = await calls.launch(call_id="c")
    answer = HandlerError("Odd\ud800", "no \udfff")
    await calls.dispatcher.deliver(calls.link, run.invocation_id, answer)
    error = ended(run).error
    assert error is not None
    assert (error.message, error.metadata["handler_error_type"]) == ("no ?", "Odd?")


async def test_a_defect_in_reading_a_result_ends_the_call(
    calls: Calls, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("defect")

    monkeypatch.setattr("precall_service.tools.run.read_answer", fail)
    run = await calls.launch(call_id="c")
    with pytest.raises(Exception, match="a defect of the server"):
        await calls.answer()
    assert ending(run) == (ToolCallOutcome.ERROR, Reason.INTERNAL)
    assert "RuntimeError: defect" in caplog.text


# The dispatcher's end.


def launched(dispatcher: Dispatcher, link: RecordingLink, call_id: str = "c") -> Run:
    toolset = new_toolset(link, tool_limits())
    toolset.add(declare(ToolProposal(name="weather", max_concurrency=1), tool_limits()))
    [tool] = toolset.snapshot()
    return dispatcher.launch(tool=tool, arguments_json="{}", context=CONTEXT, call_id=call_id)


async def test_leaving_discards_every_run_and_tells_the_processes() -> None:
    link, clock = RecordingLink(), ManualClock()
    async with Dispatcher(clock, tool_limits()) as dispatcher:
        runs = [launched(dispatcher, link, call_id=str(number)) for number in range(2)]
        await settle()
    late = launched(dispatcher, link, call_id="late")
    for run in (*runs, late):
        assert ending(run) == DISCARDED
        await run.closed()
    assert link.cancels == [
        (invocation.invocation_id, InvocationCancelReason.DRAINING)
        for invocation in link.invocations
    ]
    assert (dispatcher.in_flight, clock.pending) == (0, 0)


@dataclass
class Serving:
    """A dispatcher in a task of its own, with a run at a process that takes nothing any more."""

    link: RecordingLink
    clock: ManualClock
    run: Run
    task: asyncio.Task[None]
    leave: asyncio.Future[None]


async def serving() -> Serving:
    link, clock = RecordingLink(), ManualClock()
    leave = asyncio.get_running_loop().create_future()
    runs: list[Run] = []

    async def serve() -> None:
        async with Dispatcher(clock, tool_limits()) as dispatcher:
            runs.append(launched(dispatcher, link))
            await leave

    task = asyncio.create_task(serve())
    await settle()
    link.taking = False
    return Serving(link, clock, runs[0], task, leave)


async def test_leaving_waits_for_a_process_that_takes_nothing_for_a_bounded_time() -> None:
    served = await serving()
    served.leave.set_result(None)
    await settle()
    assert not served.task.done()
    served.clock.advance(CANCEL_TIMEOUT_S)
    await settle()
    assert served.task.done()
    assert ending(served.run) == DISCARDED


async def test_an_error_leaves_at_once_and_as_it_is() -> None:
    served = await serving()
    served.leave.set_exception(LookupError())
    with pytest.raises(LookupError):
        await served.task
    assert served.run.ended
    assert served.clock.pending == 0


@pytest.mark.parametrize("discarded", [False, True])
async def test_a_cancel_leaves_at_once(discarded: bool) -> None:
    served = await serving()
    if discarded:  # and its process is being told
        served.run.discard(InvocationCancelReason.TURN_ENDED)
        await settle()
    served.task.cancel()
    await settle()
    assert served.task.cancelled()
    assert served.run.ended
    assert served.clock.pending == 0


async def test_an_answer_that_overtakes_its_link_ends_the_run() -> None:
    clock = ManualClock()

    class Quick(RecordingLink):
        async def invoke(self, invocation: Invoke) -> None:
            await dispatcher.deliver(self, invocation.invocation_id, HandlerResult("1"))

    async with Dispatcher(clock, tool_limits()) as dispatcher:
        run = launched(dispatcher, Quick())
        assert (await run.ending()).result_json == "1"
        await run.closed()
        assert run.sent
    assert clock.pending == 0
