"""A dispatcher with one tool in one process, and calls of that tool."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from precall_service.domain.endings import InvocationEnding
from precall_service.domain.errors import Reason, ServiceError
from precall_service.domain.events import InvocationCancelReason, ToolCallOutcome
from precall_service.domain.tools import ToolEffects
from precall_service.tools.declarations import ToolProposal, declare
from precall_service.tools.dispatch import Dispatcher
from precall_service.tools.link import HandlerResult
from precall_service.tools.run import InvocationContext, Run
from precall_service.tools.toolset import RegisteredTool
from tests.support.clock import ManualClock, settle
from tests.support.links import RecordingLink
from tests.support.tools import CITY_SCHEMA, tool_limits

CONTEXT = InvocationContext(turn_id="turn", conversation_id="conversation")
ROME = '{"city":"Rome"}'
TIMEOUT_S = 5.0
DISCARDED = (ToolCallOutcome.CANCELLED, Reason.CANCELLED)
SAFE = ToolEffects(read_only=True, speculation_safe=True)


class Calls:
    """Calls of the tool `weather`, which has two slots."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.link = RecordingLink()
        self.limits = tool_limits()
        self.dispatcher = Dispatcher(self.clock, self.limits)
        self.toolset = self.dispatcher.toolset(self.link, tenant="tenant")
        self.progress: list[tuple[str, float | None]] = []
        self._running: list[asyncio.Task[InvocationEnding]] = []
        self._runs: list[Run] = []
        self.register()

    def register(
        self,
        *,
        output_schema: str = "",
        read_only: bool = False,
        effects: ToolEffects | None = None,
    ) -> None:
        """Registers the tool, or updates it."""
        self.add(
            ToolProposal(
                name="weather",
                input_schema_json=CITY_SCHEMA,
                output_schema_json=output_schema,
                effects=effects or ToolEffects(read_only=read_only),
                timeout_s=TIMEOUT_S,
                max_concurrency=2,
            )
        )

    def add(self, proposal: ToolProposal) -> None:
        """Registers a tool, or updates it."""
        self.toolset.add(declare(proposal, self.limits))

    @property
    def tool(self) -> RegisteredTool:
        [tool] = self.toolset.snapshot()
        return tool

    async def launch(
        self, arguments_json: str = ROME, *, call_id: str = "c", prediction_id: str = ""
    ) -> Run:
        """Starts a run and lets it go as far as it can without an answer."""
        run = self.dispatcher.launch(
            tool=self.tool,
            arguments_json=arguments_json,
            context=CONTEXT,
            call_id=call_id,
            prediction_id=prediction_id,
        )
        run.on_progress(lambda message, fraction: self.progress.append((message, fraction)))
        self._runs.append(run)
        await settle()
        return run

    async def guess(self, prediction_id: str = "") -> Run:
        """A speculative run, of the tool in a form that may run early."""
        if not self.dispatcher.limits.may_run_early(self.tool.declaration):
            self.register(effects=SAFE)
        return await self.launch(call_id="", prediction_id=prediction_id)

    async def call(
        self, arguments_json: str = ROME, *, tool: RegisteredTool | None = None
    ) -> asyncio.Task[InvocationEnding]:
        """Makes a call as a turn does, and lets it go as far as it can without an answer."""
        call_id = f"call-{len(self._running) + 1}"
        running = asyncio.create_task(self._answer(call_id, tool or self.tool, arguments_json))
        self._running.append(running)
        await settle()
        return running

    async def _answer(
        self, call_id: str, tool: RegisteredTool, arguments_json: str
    ) -> InvocationEnding:
        try:
            current = self.dispatcher.current(tool)
            await self.dispatcher.check_arguments(current, arguments_json)
        except ServiceError as error:
            return InvocationEnding.of_error(error)
        run = self.dispatcher.launch(
            tool=current, arguments_json=arguments_json, context=CONTEXT, call_id=call_id
        )
        run.on_progress(lambda message, fraction: self.progress.append((message, fraction)))
        try:
            return await run.ending()
        finally:
            run.discard(InvocationCancelReason.TURN_ENDED)
            await run.closed()

    async def answer(self, index: int = -1, result_json: str = "1") -> None:
        """Answers an invocation. `index` counts the invocations in the order of their sending."""
        invocation_id = self.link.invocations[index].invocation_id
        await self.dispatcher.deliver(self.link, invocation_id, HandlerResult(result_json))
        await settle()

    async def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)
        await settle()

    async def assert_over(self) -> None:
        """Checks that every call and every run has ended, and that nothing is left of them."""
        await settle()
        assert all(running.done() for running in self._running)
        assert all(run.ended for run in self._runs)
        assert self.dispatcher.in_flight == 0
        assert self.clock.pending == 0


@asynccontextmanager
async def open_calls() -> AsyncGenerator[Calls]:
    """Calls that must all have ended by the end of the block."""
    calls = Calls()
    async with calls.dispatcher:
        yield calls
        await calls.assert_over()


def ended(running: asyncio.Task[InvocationEnding] | Run) -> InvocationEnding:
    """The ending of a call or a run that has ended."""
    if isinstance(running, Run):
        assert running.ended is not None, "the run has not ended"
        return running.ended
    assert running.done(), "the call still runs"
    return running.result()


def ending(running: asyncio.Task[InvocationEnding] | Run) -> tuple[ToolCallOutcome, Reason | None]:
    """The outcome of a call or a run, and the reason of its error, if any."""
    result = ended(running)
    return result.outcome, result.error and result.error.reason


def message(running: asyncio.Task[InvocationEnding] | Run) -> str:
    """The message of the error with which a call or a run ended."""
    error = ended(running).error
    assert error is not None
    return error.message
