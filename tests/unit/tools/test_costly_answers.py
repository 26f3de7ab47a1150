"""What happens to a run while its answer is checked in another process."""

from __future__ import annotations

import asyncio
import json

import pytest

from precall_service.domain.errors import Reason, ServiceError
from precall_service.domain.events import InvocationCancelReason, ToolCallOutcome
from precall_service.tools.checks import Checks
from precall_service.tools.declarations import ToolProposal
from precall_service.tools.link import HandlerResult
from precall_service.tools.run import Run
from precall_service.tools.schema import MismatchError
from tests.support.calls import DISCARDED, TIMEOUT_S, Calls, ended, ending
from tests.support.clock import settle
from tests.support.costly_checks import none_of

RESULT = (ToolCallOutcome.RESULT, None)


class HeldCheck:
    """A check of a result that ends when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        async def check(*_: object) -> None:
            if problem := await self.ended:
                raise MismatchError(problem)

        monkeypatch.setattr(Checks, "check", check)


async def answered(calls: Calls, run: Run) -> asyncio.Task[None]:
    """The delivery of the run's answer, which is being checked."""
    answer = HandlerResult("1")
    delivery = asyncio.create_task(calls.dispatcher.deliver(calls.link, run.invocation_id, answer))
    await settle()
    assert not delivery.done()
    assert run.ended is None
    return delivery


async def test_the_timeout_ends_no_run_that_was_answered(
    calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = HeldCheck(monkeypatch)
    run = await calls.launch()
    delivery = await answered(calls, run)
    await calls.advance(2 * TIMEOUT_S)
    assert run.ended is None
    check.ended.set_result("")
    await delivery
    assert ending(run) == RESULT
    assert calls.link.cancels == []


async def test_a_result_that_does_not_fit_is_told_to_both_sides(
    calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = HeldCheck(monkeypatch)
    run = await calls.launch()
    delivery = await answered(calls, run)
    check.ended.set_result("breaks its output schema: result: no")
    with pytest.raises(ServiceError, match="breaks its output schema"):
        await delivery
    assert ending(run) == (ToolCallOutcome.ERROR, Reason.RESULT_INVALID)


@pytest.mark.parametrize("problem", ["", "is wrong"])
async def test_the_answer_of_a_run_that_is_given_up_meanwhile_is_late(
    calls: Calls, monkeypatch: pytest.MonkeyPatch, problem: str
) -> None:
    check = HeldCheck(monkeypatch)
    run = await calls.launch()
    late: list[Run] = []
    run.on_late_answer(lambda: late.append(run))
    delivery = await answered(calls, run)
    run.discard(InvocationCancelReason.TURN_ENDED)
    await settle()
    assert ending(run) == DISCARDED
    assert late == []
    check.ended.set_result(problem)
    await asyncio.wait([delivery])
    assert (delivery.exception() is None) == (not problem)
    assert late == [run]
    assert ending(run) == DISCARDED
    with pytest.raises(ServiceError, match="no invocation"):
        await calls.dispatcher.deliver(calls.link, run.invocation_id, HandlerResult("1"))


async def test_a_lost_process_ends_the_run_whose_answer_is_checked(
    calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    HeldCheck(monkeypatch)
    run = await calls.launch()
    delivery = await answered(calls, run)
    delivery.cancel()  # its stream has ended
    await asyncio.wait([delivery])
    assert run.ended is None
    calls.dispatcher.link_lost(calls.link)
    assert ending(run)[0] is ToolCallOutcome.UNAVAILABLE


async def test_costly_results_and_arguments_are_checked_for_real(calls: Calls) -> None:
    options = [n + 0.5 for n in range(400)]
    schema = none_of({"enum": options})
    text = json.dumps({"type": "object", "additionalProperties": schema})
    calls.add(
        ToolProposal(
            name="weather",
            input_schema_json=text,
            output_schema_json=json.dumps(schema),
            timeout_s=TIMEOUT_S,
            max_concurrency=2,
        )
    )
    fits, breaks = [-1] * 100, [-1] * 99 + [0.5]
    arguments = json.dumps({"a": fits})
    assert await calls.dispatcher.check_arguments(calls.tool, arguments) == {"a": fits}
    with pytest.raises(ServiceError) as refused:
        await calls.dispatcher.check_arguments(calls.tool, json.dumps({"a": breaks}))
    assert refused.value.reason is Reason.ARGUMENTS_INVALID
    assert refused.value.message.startswith("arguments.a: ")
    with pytest.raises(ServiceError) as too_large:
        calls.dispatcher.check_arguments_at_once(calls.tool, arguments)
    assert too_large.value.reason is Reason.TOO_LARGE

    run = await calls.launch(arguments)
    await calls.dispatcher.deliver(calls.link, run.invocation_id, HandlerResult(json.dumps(fits)))
    assert ended(run).result_json == json.dumps(fits)
    run = await calls.launch(arguments)
    answer = HandlerResult(json.dumps(breaks))
    with pytest.raises(ServiceError, match="breaks its output schema: result: "):
        await calls.dispatcher.deliver(calls.link, run.invocation_id, answer)
    await calls.dispatcher.check_result(calls.tool, json.dumps(fits), "")
