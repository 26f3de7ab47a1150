"""Has the client of a fake server run its handlers, and waits for their results."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeAlias

from google.protobuf.duration_pb2 import Duration

from precall import _frames
from precall.testing._cache import FakeCache
from precall.testing._fields import check_count, content_text
from precall.testing._schemas import ToolSchemas
from precall.testing._script import Call, Predict
from precall.testing._status import RefusedError
from precall.testing._tools import OfferedTools, version_of
from precall.v1 import agent_pb2, invocation_pb2, turn_pb2

Frame: TypeAlias = agent_pb2.ConverseResponse
Emit: TypeAlias = Callable[[Frame], Awaitable[None]]


class NoHandlerError(Exception):
    """No handler can run a call."""


@dataclass(frozen=True, slots=True)
class RunWatch:
    """How far a run has got, for whoever waits for that."""

    sent: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the client has been asked for the run."""
    heard: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the handler has reported progress."""


@dataclass(slots=True)
class _Run:
    """A run that waits for its result. `call_id` is empty while it is speculative."""

    call_id: str
    tool_name: str
    schemas: ToolSchemas
    watch: RunWatch
    result: asyncio.Future[invocation_pb2.InvocationResult]


class HandlerRuns:
    """The runs of handlers for one turn."""

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
        self._start = start
        self._conversation_id = conversation_id
        self._tools = tools
        self._cache = cache
        self._default_timeout = default_timeout
        self._emit = emit
        self._runs: dict[str, _Run] = {}
        self._left = False

    def owns(self, invocation_id: str) -> bool:
        """Returns whether an invocation waits for its result."""
        return invocation_id in self._runs

    def settle(self, result: invocation_pb2.InvocationResult, bytes_max: int) -> None:
        """Takes the result of an invocation.

        Raises:
            RefusedError: The result cannot be used; the run ends with this error, too.
        """
        run = self._runs[result.invocation_id]
        future = run.result
        try:
            _check_result(run, result, bytes_max)
        except RefusedError as refused:
            if not future.done():
                future.set_exception(refused)
            raise
        if not future.done():
            future.set_result(result)

    def hang_up(self) -> None:
        """Notes that the client has half-closed: the turn goes on without its tools."""
        self._left = True
        for run in self._runs.values():
            if not run.result.done():
                run.result.set_exception(NoHandlerError("the client is gone"))

    async def progress(self, told: invocation_pb2.InvocationProgress) -> None:
        """Passes on the progress of a handler. While the run is speculative, there is no call."""
        run = self._runs[told.invocation_id]
        run.watch.heard.set()
        if call_id := run.call_id:
            progress = turn_pb2.ToolCallProgress(
                call_id=call_id,
                message=told.message,
                fraction=told.fraction if told.HasField("fraction") else None,
            )
            await self._emit(Frame(turn_id=self._start.turn_id, tool_call_progress=progress))

    async def commit(self, invocation_id: str, call_id: str) -> None:
        """Tells the client that a speculative run now answers a call. It may have ended."""
        if (run := self._runs.get(invocation_id)) is not None:
            run.call_id = call_id
        committed = invocation_pb2.InvocationCommitted(invocation_id=invocation_id, call_id=call_id)
        await self._emit(Frame(invocation_committed=committed))

    async def run(
        self,
        call: Call | Predict,
        *,
        call_id: str = "",
        prediction_id: str = "",
        watch: RunWatch | None = None,
    ) -> invocation_pb2.InvocationResult:
        """Has the client run a call, or a predicted call, and returns its answer.

        Raises:
            NoHandlerError: The tool was removed, or the client has half-closed.
            TimeoutError: The client did not answer in time, and its handler was cancelled.
            RefusedError: The result cannot be used.

        On cancel: the handler is cancelled.
        """
        tool, schemas = self._tools.current(call.tool_name), self._tools.schemas(call.tool_name)
        if tool is None or schemas is None or self._left:
            why = "the client is gone" if self._left else f"tool {call.tool_name!r} was withdrawn"
            raise NoHandlerError(why)
        of = call_id or prediction_id
        invocation_id = invocation_id_of(of)
        timeout = tool.timeout if tool.HasField("timeout") else self._default_timeout
        watch = watch or RunWatch()
        result = asyncio.get_running_loop().create_future()
        run = _Run(call_id, call.tool_name, schemas, watch, result)
        self._runs[invocation_id] = run
        invoke = invocation_pb2.Invoke(
            invocation_id=invocation_id,
            execution_id=f"execution-{of}",
            call_id=call_id,
            prediction_id=prediction_id,
            turn_id=self._start.turn_id,
            conversation_id=self._conversation_id,
            tool_name=call.tool_name,
            tool_version=version_of(tool),
            arguments_json=arguments_json(call),
            timeout=timeout,
            trace_context=self._start.trace_context,
        )
        await self._emit(Frame(turn_id=self._start.turn_id, invoke=invoke))
        watch.sent.set()
        try:
            async with asyncio.timeout(_frames.seconds(timeout)):
                return await run.result
        except TimeoutError:
            await self._call_off(invocation_id, invocation_pb2.INVOCATION_CANCEL_REASON_TIMEOUT)
            raise
        except asyncio.CancelledError:
            await self._call_off(
                invocation_id,
                invocation_pb2.INVOCATION_CANCEL_REASON_TURN_ENDED
                if run.call_id
                else invocation_pb2.INVOCATION_CANCEL_REASON_PREDICTION_DISCARDED,
            )
            raise
        finally:
            del self._runs[invocation_id]
            if self._cache is not None and not tool.effects.read_only:
                self._cache.wrote()

    async def _call_off(
        self, invocation_id: str, reason: invocation_pb2.InvocationCancelReason.ValueType
    ) -> None:
        cancel = invocation_pb2.CancelInvocation(invocation_id=invocation_id, reason=reason)
        await self._emit(Frame(cancel_invocation=cancel))


def _check_result(run: _Run, result: invocation_pb2.InvocationResult, bytes_max: int) -> None:
    if result.WhichOneof("outcome") != "result_json":
        return
    field = "invocation_result.result_json"
    content = content_text("invocation_result.content", result.content)
    check_count(field, len((result.result_json + content).encode()), bytes_max, "bytes")
    run.schemas.check_result(result.result_json, run.tool_name)


def invocation_id_of(call_or_prediction_id: str) -> str:
    """Returns the id of the run for a call or a prediction."""
    return f"run-{call_or_prediction_id}"


def arguments_json(call: Call | Predict) -> str:
    """Returns the arguments of a call as JSON text."""
    return json.dumps(dict(call.arguments))
