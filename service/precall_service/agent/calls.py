"""The tool calls of a step that the client was told of, until it is told how each one ended."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from precall_service.domain.clock import Clock
from precall_service.domain.events import ToolCallCompleted
from precall_service.tools.endings import InvocationEnding


@dataclass(slots=True)
class _OpenCall:
    ready_at: float
    ending: InvocationEnding | None = None


class OpenCalls:
    """Tells one ending of each call, whatever cuts the telling short."""

    def __init__(self, emit: Callable[[ToolCallCompleted], Awaitable[None]], clock: Clock) -> None:
        self._emit = emit
        self._clock = clock
        self._calls: dict[str, _OpenCall] = {}

    @property
    def ids(self) -> list[str]:
        """The calls whose ending has not been told, in the order of their beginning."""
        return list(self._calls)

    def open(self, calls: Mapping[str, float]) -> None:
        """The calls of a step, each with when it was ready."""
        self._calls = {call_id: _OpenCall(ready_at) for call_id, ready_at in calls.items()}

    async def end(self, call_id: str, ending: InvocationEnding) -> None:
        """Tells a call's ending: the first one, should a cancel have cut the telling short."""
        call = self._calls[call_id]
        call.ending = ending = call.ending or ending
        wait_s = self._clock.now() - call.ready_at
        await self._emit(
            ToolCallCompleted(call_id, ending.outcome, ending.result_json, ending.error, wait_s)
        )
        del self._calls[call_id]
