"""Handlers of speculative runs: what they are told, and how they wait for the model's call.

The frames of the server are given to the client's invocations directly, so their order is exact.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
from typing import Any

import pytest

from precall import Tool, ToolContext
from precall._invocations import Invocations
from precall.v1 import invocation_pb2
from tests.clients.helpers import invoking

DISCARDED = invocation_pb2.INVOCATION_CANCEL_REASON_PREDICTION_DISCARDED


def start_early(
    invocations: Invocations, handler: Any, invocation_id: str = "run", **options: Any
) -> None:
    """Starts a speculative run of a handler."""
    tool = Tool.from_function(handler, **options)
    invocations.tools[tool.name] = tool
    invoke = invocation_pb2.Invoke(
        invocation_id=invocation_id, prediction_id="prediction", tool_name=tool.name
    )
    if "timeout_s" in options:
        invoke.timeout.FromMilliseconds(round(options["timeout_s"] * 1000))
    invocations.start(invoke, contextvars.copy_context())


def commit(invocations: Invocations, invocation_id: str = "run") -> None:
    invocations.commit(
        invocation_pb2.InvocationCommitted(invocation_id=invocation_id, call_id="call")
    )


def discard(invocations: Invocations, invocation_id: str = "run") -> None:
    invocations.cancel(
        invocation_pb2.CancelInvocation(invocation_id=invocation_id, reason=DISCARDED)
    )


async def outcome(sent: asyncio.Queue[Any]) -> tuple[str, str]:
    """Returns how the next run ended: the kind of its ending, and its result."""
    result = (await asyncio.wait_for(sent.get(), 5)).invocation_result
    return result.WhichOneof("outcome"), result.result_json


class Waiter:
    """A handler that waits for the model's call, and notes what it sees."""

    def __init__(self) -> None:
        self.waits = asyncio.Event()
        self.seen: list[object] = []

    async def __call__(self, context: ToolContext) -> str:
        self.seen += [context.prediction_id, context.speculative, context.call_id]
        self.waits.set()
        try:
            await context.committed()
        except asyncio.CancelledError:
            self.seen.append("cancelled")
            raise
        self.seen += [context.speculative, context.call_id]
        return "done"


async def test_a_handler_sees_its_run_become_committed() -> None:
    waiter = Waiter()
    async with invoking() as (invocations, sent):
        start_early(invocations, waiter, name="wait")
        await waiter.waits.wait()
        commit(invocations)
        assert await outcome(sent) == ("result_json", '"done"')
    assert waiter.seen == ["prediction", True, "", False, "call"]


async def test_a_commitment_before_the_handler_starts_counts() -> None:
    waiter = Waiter()
    async with invoking() as (invocations, sent):
        start_early(invocations, waiter, name="wait")
        commit(invocations)
        assert await outcome(sent) == ("result_json", '"done"')
    assert waiter.seen == ["prediction", False, "call", False, "call"]


async def test_a_discarded_prediction_cancels_its_handler(caplog: pytest.LogCaptureFixture) -> None:
    waiter = Waiter()
    async with invoking() as (invocations, sent):
        with caplog.at_level(logging.DEBUG, "precall"):
            start_early(invocations, waiter, name="wait")
            await waiter.waits.wait()
            discard(invocations)
            assert (await outcome(sent))[0] == "cancelled"
    assert waiter.seen == ["prediction", True, "", "cancelled"]
    assert "PREDICTION_DISCARDED" in caplog.text
    assert {record.levelno for record in caplog.records} == {logging.DEBUG}


async def test_a_handler_that_swallows_its_cancellation_still_does_not_go_on() -> None:
    waits, ended = asyncio.Event(), asyncio.Event()

    async def stubborn(context: ToolContext) -> None:
        waits.set()
        try:
            await context.committed()
        except asyncio.CancelledError:
            try:
                await context.committed()
            finally:
                ended.set()

    async with invoking() as (invocations, sent):
        start_early(invocations, stubborn)
        await waits.wait()
        discard(invocations)
        assert (await outcome(sent))[0] == "cancelled"
        assert ended.is_set()


async def test_several_tasks_of_a_handler_wait() -> None:
    async def several(context: ToolContext) -> int:
        async with asyncio.TaskGroup() as group:
            for _ in range(3):
                group.create_task(context.committed())
            waits.set()
        return 3

    waits = asyncio.Event()
    async with invoking() as (invocations, sent):
        start_early(invocations, several)
        await waits.wait()
        commit(invocations)
        assert await outcome(sent) == ("result_json", "3")


@pytest.mark.parametrize("commit_first", [True, False])
async def test_a_cancellation_races_with_a_commitment(commit_first: bool) -> None:
    """Whichever comes first: the handler is cancelled, and sees whether it was committed."""
    seen: list[bool] = []
    started = asyncio.Event()

    async def work(context: ToolContext) -> None:
        started.set()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            seen.append(context.speculative)

    async with invoking() as (invocations, sent):
        start_early(invocations, work)
        await started.wait()
        for act in (commit, discard) if commit_first else (discard, commit):
            act(invocations)
        assert (await outcome(sent))[0] == "cancelled"
        assert sent.empty()  # one ending
    assert seen == [not commit_first]


async def test_a_commitment_after_the_end_of_the_run_is_ignored() -> None:
    async def quick(context: ToolContext) -> bool:
        kept.append(context)
        return context.speculative

    kept: list[ToolContext] = []
    async with invoking() as (invocations, sent):
        start_early(invocations, quick)
        assert await outcome(sent) == ("result_json", "true")
        for invocation_id in ("run", "unknown"):
            commit(invocations, invocation_id)
            discard(invocations, invocation_id)
        assert (kept[0].speculative, kept[0].call_id) == (True, "")
        with pytest.raises(asyncio.CancelledError):  # nothing waits for ever
            await kept[0].committed()
        assert not kept[0].committed_from_thread()
    assert sent.empty()


async def test_a_handler_that_waits_for_too_long_reaches_its_timeout() -> None:
    async def wait(context: ToolContext) -> None:
        await context.committed()

    async with invoking() as (invocations, sent):
        start_early(invocations, wait, timeout_s=0.05)
        result = (await asyncio.wait_for(sent.get(), 5)).invocation_result
    assert result.error.type == "TimeoutError"


@pytest.mark.parametrize(
    ("act", "ending"), [(commit, ("result_json", "1")), (discard, ("cancelled", ""))]
)
async def test_a_synchronous_handler_waits_in_its_thread(act: Any, ending: Any) -> None:
    waits, returned = threading.Event(), threading.Event()
    seen: list[bool] = []

    def wait(context: ToolContext) -> int:
        assert context.speculative
        assert not context.committed_from_thread(0.001)  # not decided yet
        waits.set()
        seen.append(context.committed_from_thread())
        returned.set()
        return 1

    async with invoking() as (invocations, sent):
        start_early(invocations, wait)
        assert await asyncio.to_thread(waits.wait, 5)
        act(invocations)
        assert await outcome(sent) == ending
        assert await asyncio.to_thread(returned.wait, 5)
    assert seen == [act is commit]


async def test_closing_releases_a_thread_that_waits() -> None:
    waits, returned = threading.Event(), threading.Event()

    def wait(context: ToolContext) -> None:
        waits.set()
        assert not context.committed_from_thread()
        returned.set()

    async with invoking() as (invocations, _):
        start_early(invocations, wait)
        assert await asyncio.to_thread(waits.wait, 5)
    assert await asyncio.to_thread(returned.wait, 5)


async def test_an_ordinary_run_is_committed_from_its_start() -> None:
    async def work(context: ToolContext) -> list[object]:
        await context.committed()
        assert context.committed_from_thread()
        return [context.speculative, context.call_id, context.prediction_id]

    async with invoking() as (invocations, sent):
        invocations.tools["work"] = Tool.from_function(work)
        invoke = invocation_pb2.Invoke(invocation_id="run", tool_name="work", call_id="call")
        invocations.start(invoke, contextvars.copy_context())
        assert await outcome(sent) == ("result_json", '[false,"call",""]')
    context = ToolContext()
    await context.committed()
    assert (context.committed_from_thread(), context.speculative) == (True, False)
