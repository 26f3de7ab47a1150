"""Sends the calls of a turn to the client of a fake server, and reports how each ended."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from google.protobuf.duration_pb2 import Duration

from precall import _events, _events_in, _frames
from precall.testing._cache import FakeCache, age_s
from precall.testing._script import Call, ToolResult
from precall.testing._status import status
from precall.testing._tools import OfferedTools, version_of
from precall.v1 import agent_pb2, invocation_pb2, tool_cache_pb2, turn_pb2

Frame: TypeAlias = agent_pb2.ConverseResponse
Emit: TypeAlias = Callable[[Frame], Awaitable[None]]


class _UnavailableError(Exception):
    """No handler can run a call."""


class CallRuns:
    """The runs of the calls of one turn."""

    def __init__(
        self,
        start: turn_pb2.StartTurn,
        *,
        conversation_id: str,
        tools: OfferedTools,
        cache: FakeCache | None,
        default_timeout: Duration,
        emit: Emit,
    ) -> None:
        self.cache_hits = 0
        """How many calls the tool cache has answered."""
        self._cache = cache
        self._start = start
        self._conversation_id = conversation_id
        self._tools = tools
        self._default_timeout = default_timeout
        self._emit_frame = emit
        self._waiting: dict[str, asyncio.Future[invocation_pb2.InvocationResult]] = {}
        self._left = False

    def owns(self, invocation_id: str) -> bool:
        """Returns whether an invocation waits for its result."""
        return invocation_id in self._waiting

    def settle(self, result: invocation_pb2.InvocationResult) -> None:
        """Takes the result of an invocation."""
        future = self._waiting[result.invocation_id]
        if not future.done():
            future.set_result(result)

    def hang_up(self) -> None:
        """Notes that the client has half-closed: the turn goes on without its tools."""
        self._left = True
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(_UnavailableError("the client is gone"))

    async def progress(self, told: invocation_pb2.InvocationProgress) -> None:
        """Passes on the progress of a handler."""
        await self._emit(
            Frame(
                tool_call_progress=turn_pb2.ToolCallProgress(
                    call_id=told.invocation_id.removeprefix("run-"),
                    message=told.message,
                    fraction=told.fraction if told.HasField("fraction") else None,
                )
            )
        )

    async def run(self, call_id: str, call: Call) -> ToolResult:
        """Has the client run one call, and returns and emits how it ended.

        On cancel: the call ends as CANCELLED on the wire.
        """
        completed = turn_pb2.ToolCallCompleted(call_id=call_id)
        result = invocation_pb2.InvocationResult()
        try:
            if (cached := self._cached(call)) is not None:
                self.cache_hits += 1
                _fill_from_cache(completed, cached)
            else:
                result = await self._invoke(call_id, call)
                _fill(completed, result)
        except _UnavailableError as error:
            completed.outcome = turn_pb2.TOOL_CALL_OUTCOME_UNAVAILABLE
            completed.error.CopyFrom(status("TOOL_UNAVAILABLE", str(error)))
        except TimeoutError:
            completed.outcome = turn_pb2.TOOL_CALL_OUTCOME_TIMEOUT
            completed.error.CopyFrom(status("TOOL_TIMEOUT", "the handler did not answer in time"))
        except asyncio.CancelledError:
            completed.outcome = turn_pb2.TOOL_CALL_OUTCOME_CANCELLED
            completed.error.CopyFrom(status("CANCELLED", "the turn was cancelled"))
            raise
        finally:
            await self._emit(Frame(tool_call_completed=completed))
        return _seen(call, completed, result)

    def _cached(self, call: Call) -> tool_cache_pb2.CacheEntry | None:
        """Returns the entry that answers a call; None if the handler has to run."""
        tool = self._tools.current(call.tool_name)
        if tool is None or self._cache is None:
            return None
        key = tool_cache_pb2.CacheKey(
            tool_name=tool.name,
            tool_version=version_of(tool),
            arguments_json=arguments_json(call),
            conversation_id=self._conversation_id,
        )
        return self._cache.answer(tool, key)

    async def _invoke(self, call_id: str, call: Call) -> invocation_pb2.InvocationResult:
        """Returns the client's answer.

        Raises:
            _UnavailableError: The tool was removed, or the client has half-closed.
            TimeoutError: The client did not answer in time, and its handler was cancelled.

        On cancel: the handler is cancelled.
        """
        tool = self._tools.current(call.tool_name)
        if tool is None or self._left:
            why = "the client is gone" if self._left else f"tool {call.tool_name!r} was withdrawn"
            raise _UnavailableError(why)
        invocation_id = f"run-{call_id}"
        timeout = tool.timeout if tool.HasField("timeout") else self._default_timeout
        future: asyncio.Future[invocation_pb2.InvocationResult]
        future = asyncio.get_running_loop().create_future()
        self._waiting[invocation_id] = future
        invoke = invocation_pb2.Invoke(
            invocation_id=invocation_id,
            execution_id=f"execution-{call_id}",
            call_id=call_id,
            turn_id=self._start.turn_id,
            conversation_id=self._conversation_id,
            tool_name=call.tool_name,
            tool_version=version_of(tool),
            arguments_json=arguments_json(call),
            timeout=timeout,
            trace_context=self._start.trace_context,
        )
        await self._emit(Frame(invoke=invoke))
        try:
            async with asyncio.timeout(_frames.seconds(timeout)):
                return await future
        except TimeoutError:
            await self._call_off(invocation_id, invocation_pb2.INVOCATION_CANCEL_REASON_TIMEOUT)
            raise
        except asyncio.CancelledError:
            await self._call_off(invocation_id, invocation_pb2.INVOCATION_CANCEL_REASON_TURN_ENDED)
            raise
        finally:
            del self._waiting[invocation_id]
            if self._cache is not None and not tool.effects.read_only:
                self._cache.wrote()

    async def _call_off(
        self, invocation_id: str, reason: invocation_pb2.InvocationCancelReason.ValueType
    ) -> None:
        cancel = invocation_pb2.CancelInvocation(invocation_id=invocation_id, reason=reason)
        await self._emit_frame(Frame(cancel_invocation=cancel))

    async def _emit(self, frame: Frame) -> None:
        frame.turn_id = self._start.turn_id
        await self._emit_frame(frame)


def arguments_json(call: Call) -> str:
    """Returns the arguments of a call as JSON text."""
    return json.dumps(dict(call.arguments))


def _fill(completed: turn_pb2.ToolCallCompleted, result: invocation_pb2.InvocationResult) -> None:
    match result.WhichOneof("outcome"):
        case "result_json":
            completed.outcome = turn_pb2.TOOL_CALL_OUTCOME_RESULT
            completed.result_json = result.result_json
            completed.source = turn_pb2.RESULT_SOURCE_COMMITTED
        case "cancelled":
            completed.outcome = turn_pb2.TOOL_CALL_OUTCOME_CANCELLED
            completed.error.CopyFrom(status("CANCELLED", "the handler was cancelled"))
        case _:
            completed.outcome = turn_pb2.TOOL_CALL_OUTCOME_ERROR
            failure = result.error
            completed.error.CopyFrom(
                status("TOOL_FAILED", failure.message, handler_error_type=failure.type)
            )


def _fill_from_cache(
    completed: turn_pb2.ToolCallCompleted, cached: tool_cache_pb2.CacheEntry
) -> None:
    completed.outcome = turn_pb2.TOOL_CALL_OUTCOME_RESULT
    completed.source = turn_pb2.RESULT_SOURCE_CACHE
    completed.result_json = cached.result_json
    completed.content.extend(cached.content)
    completed.cache_entry_version = cached.entry_version
    completed.cache_age.CopyFrom(_frames.duration(age_s(cached)))


def _seen(
    call: Call,
    completed: turn_pb2.ToolCallCompleted,
    result: invocation_pb2.InvocationResult,
) -> ToolResult:
    """Returns the ending of a call as scripts and tests see it."""
    ended = _events_in.tool_call_completed(completed)
    failed = ended.outcome is _events.ToolCallOutcome.ERROR
    return ToolResult(
        tool_name=call.tool_name,
        arguments=dict(call.arguments),
        outcome=ended.outcome,
        value=ended.result,
        error_type=result.error.type if failed else "",
        error_message=result.error.message if failed else "",
    )
