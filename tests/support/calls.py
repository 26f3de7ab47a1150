"""A dispatcher with one tool at one process, and calls to it."""

from __future__ import annotations

import asyncio

from precall_service.domain.errors import Reason
from precall_service.domain.messages import ToolCall
from precall_service.domain.tools import ToolEffects
from precall_service.domain.turn import CallOutcome
from precall_service.tools.declarations import ToolProposal
from precall_service.tools.dispatch import Dispatcher, InvocationContext
from precall_service.tools.endings import InvocationEnding
from precall_service.tools.link import HandlerResult
from precall_service.tools.toolset import RegisteredTool, Toolset
from tests.support.clock import ManualClock, settle
from tests.support.links import RecordingLink
from tests.support.tools import CITY_SCHEMA, tool_limits

CONTEXT = InvocationContext(turn_id="turn", conversation_id="conversation")
TIMEOUT_S = 5.0


class Calls:
    """Calls of the tool `weather`, which has two places."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.link = RecordingLink()
        self.limits = tool_limits()
        self.toolset = Toolset(self.link, self.limits)
        self.dispatcher = Dispatcher(self.clock, self.limits)
        self.progress: list[tuple[str, float | None]] = []
        self._running: list[asyncio.Task[InvocationEnding]] = []
        self.register()

    def register(self, *, output_schema: str = "", read_only: bool = False) -> None:
        """Registers the tool, or updates it."""
        [registration] = self.toolset.register(
            [
                ToolProposal(
                    name="weather",
                    input_schema_json=CITY_SCHEMA,
                    output_schema_json=output_schema,
                    effects=ToolEffects(read_only=read_only),
                    timeout_s=TIMEOUT_S,
                    max_concurrency=2,
                )
            ]
        )
        assert registration.error is None

    @property
    def tool(self) -> RegisteredTool:
        [tool] = self.toolset.snapshot()
        return tool

    async def call(
        self, arguments_json: str = '{"city":"Rome"}', *, tool: RegisteredTool | None = None
    ) -> asyncio.Task[InvocationEnding]:
        """A call that has gone as far as it can without an answer."""
        call_id = f"call-{len(self._running) + 1}"
        running = asyncio.create_task(
            self.dispatcher.run(
                call=ToolCall(call_id=call_id, tool_name="weather", arguments_json=arguments_json),
                tool=tool or self.tool,
                context=CONTEXT,
                on_progress=lambda message, fraction: self.progress.append((message, fraction)),
            )
        )
        self._running.append(running)
        await settle()
        return running

    async def answer(self, index: int = -1, result_json: str = "1") -> None:
        """The handler's answer to the invocation of that index, counted as they were sent."""
        invocation_id = self.link.invocations[index].invocation_id
        self.dispatcher.deliver(self.link, invocation_id, HandlerResult(result_json))
        await settle()

    async def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)
        await settle()

    async def assert_over(self) -> None:
        """Every call has ended and nothing is left of it."""
        await settle()
        assert all(running.done() for running in self._running)
        assert self.dispatcher.in_flight == 0
        assert self.clock.pending == 0


def ending(running: asyncio.Task[InvocationEnding]) -> tuple[CallOutcome, Reason | None]:
    """How the call ended, and why."""
    assert running.done(), "the call still runs"
    result = running.result()
    return result.outcome, result.error and result.error.reason


def message(running: asyncio.Task[InvocationEnding]) -> str:
    """What is said of the error with which the call ended."""
    error = running.result().error
    assert error is not None
    return error.message
