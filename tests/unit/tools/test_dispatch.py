"""Each way in which a call can end, one by one."""

from __future__ import annotations

import weakref

import pytest

from precall_service.domain.errors import Reason, ServiceError
from precall_service.domain.events import InvocationCancelReason, Invoke, ToolCallOutcome
from precall_service.tools.failures import SEND_TIMEOUT_S
from precall_service.tools.link import HandlerAnswer, HandlerCancelled, HandlerError, HandlerResult
from precall_service.tools.peer import OWED_MAX
from precall_service.tools.run import CANCEL_TIMEOUT_S, PROGRESS_CHARS_MAX
from tests.support.calls import ROME, TIMEOUT_S, Calls, ended, ending, message
from tests.support.clock import settle
from tests.support.links import RecordingLink


async def refusal(calls: Calls, invocation_id: str, answer: HandlerAnswer) -> ServiceError:
    with pytest.raises(ServiceError) as caught:
        await calls.dispatcher.deliver(calls.link, invocation_id, answer)
    return caught.value


async def test_result(calls: Calls) -> None:
    running = await calls.call()
    [invocation] = calls.link.invocations
    assert invocation.call_id == "call-1"
    assert (invocation.turn_id, invocation.conversation_id) == ("turn", "conversation")
    assert invocation.tool_name == "weather"
    assert invocation.tool_version == calls.tool.declaration.version
    assert invocation.arguments_json == ROME
    assert invocation.timeout_s == TIMEOUT_S
    assert invocation.invocation_id != invocation.execution_id

    await calls.answer(result_json='{"sky": "clear"}')
    assert ending(running) == (ToolCallOutcome.RESULT, None)
    assert running.result().result_json == '{"sky": "clear"}'
    assert calls.link.cancels == []


@pytest.mark.parametrize(
    ("arguments_json", "reason", "says"),
    [
        ("{", Reason.ARGUMENTS_INVALID, "not a JSON object"),
        ("[]", Reason.ARGUMENTS_INVALID, "an array"),
        ('{"city":5}', Reason.ARGUMENTS_INVALID, 'arguments.city: 5 is not of type "string"'),
        ('{"city":"' + "x" * 1024 + '"}', Reason.TOO_LARGE, "the limit is 1024"),
    ],
)
async def test_bad_arguments_reach_no_handler(
    calls: Calls, arguments_json: str, reason: Reason, says: str
) -> None:
    running = await calls.call(arguments_json)
    assert ending(running) == (ToolCallOutcome.ERROR, reason)
    assert says in message(running)
    assert calls.link.invocations == []


async def test_handler_fails(calls: Calls) -> None:
    running = await calls.call()
    [invocation] = calls.link.invocations
    answer = HandlerError("LookupError", "no such city " + "x" * 5000)
    await calls.dispatcher.deliver(calls.link, invocation.invocation_id, answer)
    await settle()
    assert ending(running)[0] is ToolCallOutcome.ERROR
    assert message(running).startswith("no such city xxx")
    assert len(message(running)) == 2000


async def test_handler_stops_on_its_own(calls: Calls) -> None:
    running = await calls.call()
    [invocation] = calls.link.invocations
    await calls.dispatcher.deliver(calls.link, invocation.invocation_id, HandlerCancelled())
    await settle()
    assert ending(running) == (ToolCallOutcome.CANCELLED, Reason.CANCELLED)


@pytest.mark.parametrize(
    ("result_json", "reason", "says"),
    [
        ("{", Reason.RESULT_INVALID, "not JSON"),
        ("NaN", Reason.RESULT_INVALID, "not JSON"),
        ("", Reason.RESULT_INVALID, "not JSON"),
        ('{"sky":1}', Reason.RESULT_INVALID, 'result.sky: 1 is not of type "string"'),
        ('"' + "x" * 1024 + '"', Reason.TOO_LARGE, "1026 bytes, the limit is 1024"),
    ],
)
async def test_bad_result_is_told_to_both_sides(
    calls: Calls, result_json: str, reason: Reason, says: str
) -> None:
    calls.register(output_schema='{"properties":{"sky":{"type":"string"}}}')
    running = await calls.call()
    [invocation] = calls.link.invocations
    error = await refusal(calls, invocation.invocation_id, HandlerResult(result_json))
    assert error.reason is reason
    assert error.field == "invocation_result.result_json"
    assert says in error.message
    await settle()
    assert ending(running) == (ToolCallOutcome.ERROR, reason)
    assert calls.link.cancels == []


async def test_timeout_then_late_answer(calls: Calls) -> None:
    running = await calls.call()
    [invocation] = calls.link.invocations
    await calls.advance(TIMEOUT_S - 0.01)
    assert not running.done()
    await calls.advance(0.01)
    assert ending(running) == (ToolCallOutcome.TIMEOUT, Reason.TOOL_TIMEOUT)
    assert "whether it took effect is not known" in message(running)
    assert calls.link.cancels == [(invocation.invocation_id, InvocationCancelReason.TIMEOUT)]

    calls.dispatcher.progress(calls.link, invocation.invocation_id, "nearly there", None)
    assert calls.progress == []
    await calls.dispatcher.deliver(calls.link, invocation.invocation_id, HandlerResult("1"))
    error = await refusal(calls, invocation.invocation_id, HandlerResult("1"))
    assert error.reason is Reason.INVOCATION_UNKNOWN


async def test_late_answer_may_be_anything(calls: Calls) -> None:
    await calls.call()
    await calls.advance(TIMEOUT_S)
    await calls.answer(result_json="{")


async def test_timeout_of_a_read_only_tool_leaves_no_doubt(calls: Calls) -> None:
    calls.register(read_only=True)
    running = await calls.call()
    await calls.advance(TIMEOUT_S)
    assert "not known" not in message(running)


async def test_owed_answers_are_bounded(calls: Calls) -> None:
    for _ in range(OWED_MAX + 1):
        await calls.call()
        await calls.advance(TIMEOUT_S)
    first, second, *_ = [each.invocation_id for each in calls.link.invocations]
    assert (await refusal(calls, first, HandlerResult("1"))).reason is Reason.INVOCATION_UNKNOWN
    await calls.dispatcher.deliver(calls.link, second, HandlerResult("1"))


async def test_cancel_tells_the_handler(calls: Calls) -> None:
    running = await calls.call()
    [invocation] = calls.link.invocations
    running.cancel()
    await settle()
    assert running.cancelled()
    assert calls.link.cancels == [(invocation.invocation_id, InvocationCancelReason.TURN_ENDED)]
    await calls.answer()


async def test_cancel_does_not_wait_for_a_process_that_takes_nothing(calls: Calls) -> None:
    running = await calls.call()
    calls.link.taking = False
    running.cancel()
    await settle()
    assert not running.done()
    await calls.advance(CANCEL_TIMEOUT_S)
    assert running.cancelled()


async def test_cancel_while_the_invocation_waits_to_be_sent(calls: Calls) -> None:
    calls.link.taking = False
    running = await calls.call()
    running.cancel()
    await settle()
    assert running.cancelled()
    calls.link.taking = True
    await settle()
    assert calls.link.invocations == []
    assert calls.link.cancels == []


async def test_cancel_in_the_same_breath_as_the_timeout(calls: Calls) -> None:
    running = await calls.call()
    calls.clock.advance(TIMEOUT_S)
    running.cancel()
    await settle()
    assert running.cancelled()
    assert [reason for _, reason in calls.link.cancels] == [InvocationCancelReason.TIMEOUT]


async def test_answer_in_the_same_breath_as_the_cancel(calls: Calls) -> None:
    running = await calls.call()
    running.cancel()
    await calls.answer()
    assert running.cancelled()
    assert calls.link.cancels == []


async def test_process_takes_nothing(calls: Calls) -> None:
    calls.link.taking = False
    running = await calls.call()
    await calls.advance(SEND_TIMEOUT_S)
    assert ending(running) == (ToolCallOutcome.UNAVAILABLE, Reason.TOOL_UNAVAILABLE)
    assert calls.link.cancels == []


async def test_process_refuses(calls: Calls) -> None:
    calls.link.break_off()
    running = await calls.call()
    assert ending(running) == (ToolCallOutcome.UNAVAILABLE, Reason.TOOL_UNAVAILABLE)


async def test_timeout_counts_from_the_sending(calls: Calls) -> None:
    calls.link.taking = False
    running = await calls.call()
    await calls.advance(3.0)
    calls.link.taking = True
    await settle()
    await calls.advance(TIMEOUT_S - 0.01)
    assert not running.done()
    await calls.answer()
    assert ending(running) == (ToolCallOutcome.RESULT, None)


async def test_lost_process_ends_running_waiting_and_later_calls(calls: Calls) -> None:
    made = [await calls.call() for _ in range(3)]
    assert len(calls.link.invocations) == 2
    calls.dispatcher.link_lost(calls.link)
    calls.dispatcher.link_lost(calls.link)
    await settle()
    made.append(await calls.call())
    assert {ending(each) for each in made} == {
        (ToolCallOutcome.UNAVAILABLE, Reason.TOOL_UNAVAILABLE)
    }
    assert ["did not run" in message(each) for each in made] == [False, False, True, True]
    assert len(calls.link.invocations) == 2
    assert calls.link.cancels == []


async def test_progress(calls: Calls) -> None:
    await calls.call()
    [invocation] = calls.link.invocations
    calls.dispatcher.progress(calls.link, invocation.invocation_id, "half", 0.5)
    calls.dispatcher.progress(calls.link, invocation.invocation_id, "x" * 5000, None)
    assert calls.progress[0] == ("half", 0.5)
    assert len(calls.progress[1][0]) == PROGRESS_CHARS_MAX
    await calls.answer()
    with pytest.raises(ServiceError) as caught:
        calls.dispatcher.progress(calls.link, invocation.invocation_id, "", None)
    assert caught.value.reason is Reason.INVOCATION_UNKNOWN


async def test_invocations_of_another_process_are_unknown(calls: Calls) -> None:
    running = await calls.call()
    [invocation] = calls.link.invocations
    stranger = RecordingLink()
    with pytest.raises(ServiceError) as caught:
        await calls.dispatcher.deliver(stranger, invocation.invocation_id, HandlerResult("1"))
    assert caught.value.reason is Reason.INVOCATION_UNKNOWN
    assert caught.value.field == "invocation_result.invocation_id"
    calls.dispatcher.link_lost(stranger)
    assert not running.done()
    await calls.answer()


async def test_result_twice(calls: Calls) -> None:
    running = await calls.call()
    await calls.answer(result_json="1")
    with pytest.raises(ServiceError, match="answer each Invoke once"):
        await calls.answer(result_json="2")
    assert running.result().result_json == "1"


async def test_defect_of_a_link_ends_only_the_run(
    calls: Calls, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(invocation: Invoke) -> None:
        raise RuntimeError("defect")

    calls.link.invoke = fail
    running = await calls.call()
    assert ending(running) == (ToolCallOutcome.ERROR, Reason.INTERNAL)
    error = ended(running).error
    assert error is not None
    incident = error.metadata["incident"]
    assert incident in caplog.text
    assert "defect" in caplog.text
    assert calls.dispatcher.in_flight == 0


async def test_links_are_not_kept_alive(calls: Calls) -> None:
    link = RecordingLink()
    forgotten = weakref.ref(link)
    calls.dispatcher.link_lost(link)
    del link
    assert forgotten() is None
