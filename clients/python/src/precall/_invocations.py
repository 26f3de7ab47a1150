"""Runs handlers for the server's invocations and answers each exactly once.

Owns: the invocations of one conversation while they run: deadline, cancel, result.
Never: lets a handler's failure out as anything but an InvocationError without a stack trace.
Concurrency: one supervising task per invocation, and beside it the handler's own task, so that a
handler that ignores its cancellation delays nobody's answer.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import pydantic_core

from precall import _telemetry
from precall._context import ToolContext
from precall._errors import PrecallError
from precall._options import ClientOptions
from precall._pool import HandlerPool, look_at
from precall._scope import TaskScope
from precall._server import ServerLimits
from precall._tool import Tool
from precall.v1 import agent_pb2, invocation_pb2

logger = logging.getLogger("precall")

MESSAGE_CHARACTERS_MAX = 2000
_FRAME_OVERHEAD_BYTES = 1024  # what stands in a frame around a result

Send = Callable[[agent_pb2.ConverseRequest], Awaitable[object]]


@dataclass(slots=True)
class _Run:
    """One invocation in flight."""

    invoke: invocation_pb2.Invoke
    unwanted: asyncio.Future[None]


class Invocations:
    """The handlers of one conversation."""

    def __init__(
        self, send: Send, *, pool: HandlerPool, limits: ServerLimits, options: ClientOptions
    ) -> None:
        self.tools: dict[str, Tool] = {}
        """What can be invoked, by name."""
        self._send = send
        self._pool = pool
        self._options = options
        sizes = (limits.result_bytes_max, limits.frame_bytes_max - _FRAME_OVERHEAD_BYTES)
        self._result_bytes_max = min((size for size in sizes if size > 0), default=0)
        self._runs: dict[str, _Run] = {}
        self._scope = TaskScope()

    async def start(self, invoke: invocation_pb2.Invoke) -> None:
        """Starts a run; its answer is sent when it ends."""
        if len(self._runs) >= self._options.invocations_max:
            text = f"this client has {len(self._runs)} invocations in flight and takes no more"
            await self._answer(invoke, _error("TooManyInvocations", text))
            return
        run = _Run(invoke, asyncio.get_running_loop().create_future())
        self._runs[invoke.invocation_id] = run
        self._scope.start(self._serve(run), name=f"precall invocation of {invoke.tool_name}")

    def cancel(self, invocation_id: str) -> None:
        """Tells a run that it is no longer wanted. One that has ended is none the wiser."""
        run = self._runs.get(invocation_id)
        if run is not None and not run.unwanted.done():
            run.unwanted.set_result(None)

    def cancel_all(self) -> None:
        """Tells every run that it is no longer wanted."""
        for invocation_id in list(self._runs):
            self.cancel(invocation_id)

    async def close(self) -> None:
        """Cancels what runs and waits for it, in a bounded time."""
        self.cancel_all()
        await self._scope.close(self._options.close_timeout_s)

    async def _serve(self, run: _Run) -> None:
        try:
            result = await self._run(run)
        except Exception:  # an invocation is always answered, also when someone's __str__ raises
            logger.exception("an invocation of %s could not be served", run.invoke.tool_name)
            result = _error("RuntimeError", "the call failed in the client; its log says how")
        finally:
            del self._runs[run.invoke.invocation_id]
        await self._answer(run.invoke, result)

    async def _run(self, run: _Run) -> invocation_pb2.InvocationResult:
        """Returns how the handler ended, or that it did not in time."""
        invoke = run.invoke
        tool = self.tools.get(invoke.tool_name)
        if tool is None:
            return _error("ToolUnknown", f"this client has no tool {invoke.tool_name!r}")
        timeout_s = invoke.timeout.ToMilliseconds() / 1000 if invoke.HasField("timeout") else None
        context = self._context(invoke, timeout_s)
        try:
            arguments = tool.signature.bind(invoke.arguments_json, context)
        except ValueError as error:
            return _error("ArgumentsInvalid", str(error))
        handler = self._scope.start(
            self._pool.run(tool, arguments),
            name=f"precall handler of {tool.name}",
            context=_telemetry.handler_context(invoke.trace_context),
        )
        handler.add_done_callback(look_at)
        await asyncio.wait(
            {handler, run.unwanted}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED
        )
        if handler.done():
            return self._ended(tool, handler)
        context.cancel_event.set()
        handler.cancel()
        # Past the deadline the server says so too, and its word decides how the call has ended.
        await asyncio.wait({handler, run.unwanted}, timeout=self._options.cancel_grace_s)
        if run.unwanted.done():
            if handler.done() and not handler.cancelled() and handler.exception() is None:
                return self._ended(tool, handler)  # it was through: the truth may matter
            return _cancelled()
        return _error("TimeoutError", f"the handler took longer than {timeout_s:g} s")

    def _context(self, invoke: invocation_pb2.Invoke, timeout_s: float | None) -> ToolContext:
        """Returns what the handler is told about its run."""

        async def progress(message: str, fraction: float | None) -> None:
            if invoke.invocation_id in self._runs:  # after its end there is nobody to tell
                frame = invocation_pb2.InvocationProgress(
                    invocation_id=invoke.invocation_id, message=message, fraction=fraction
                )
                await self._send(agent_pb2.ConverseRequest(invocation_progress=frame))

        return ToolContext(
            tool_name=invoke.tool_name,
            invocation_id=invoke.invocation_id,
            execution_id=invoke.execution_id,
            call_id=invoke.call_id,
            turn_id=invoke.turn_id,
            conversation_id=invoke.conversation_id,
            deadline=None if timeout_s is None else time.monotonic() + timeout_s,
            traceparent=invoke.trace_context.traceparent,
            tracestate=invoke.trace_context.tracestate,
            on_progress=progress,
            loop=asyncio.get_running_loop(),
        )

    def _ended(self, tool: Tool, handler: asyncio.Task[object]) -> invocation_pb2.InvocationResult:
        """Returns the answer for a handler that ended by itself.

        The model gets a failure in words. Where it comes from is for the program's log.
        """
        if handler.cancelled():
            return _error("CancelledError", "the handler was cancelled within the client")
        error = handler.exception()
        if error is not None:
            logger.warning("tool %s failed", tool.name, exc_info=error)
            return _error(type(error).__name__, str(error) or "the handler gave no message")
        value = handler.result()
        try:
            text = pydantic_core.to_json(value, inf_nan_mode="null")
        except (ValueError, TypeError, RecursionError) as problem:
            logger.warning("tool %s returned what is not JSON", tool.name, exc_info=problem)
            return _error(
                "ResultNotSerializable",
                f"the handler returned {type(value).__name__}, which does not become JSON: "
                f"{problem}; return texts, numbers, lists, dicts, dataclasses or pydantic models",
            )
        if self._result_bytes_max and len(text) > self._result_bytes_max:
            return _error(
                "ResultTooLarge",
                f"the result has {len(text):,} bytes, the limit is {self._result_bytes_max:,}; "
                "return less, or return where to find it",
            )
        return invocation_pb2.InvocationResult(result_json=text.decode())

    async def _answer(
        self, invoke: invocation_pb2.Invoke, result: invocation_pb2.InvocationResult
    ) -> None:
        result.invocation_id = invoke.invocation_id
        try:
            await self._send(agent_pb2.ConverseRequest(invocation_result=result))
        except PrecallError as error:
            logger.debug("the result of %s could not be sent: %s", invoke.tool_name, error)


def _error(kind: str, message: str) -> invocation_pb2.InvocationResult:
    if len(message) > MESSAGE_CHARACTERS_MAX:
        message = message[:MESSAGE_CHARACTERS_MAX] + " ... (cut)"
    # A message may hold what UTF-8 cannot; the frame may not.
    readable = message.encode("utf-8", "replace").decode()
    return invocation_pb2.InvocationResult(
        error=invocation_pb2.InvocationError(type=kind, message=readable)
    )


def _cancelled() -> invocation_pb2.InvocationResult:
    return invocation_pb2.InvocationResult(cancelled=invocation_pb2.InvocationCancelled())
