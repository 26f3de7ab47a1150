"""Runs handlers for the server's invocations and answers each exactly once.

Owns: the invocations of one conversation while they run: deadline, commitment, cancellation and
result.
Never: reports a handler's failure as anything but an InvocationError without a stack trace.
Concurrency: one supervising task per invocation, and a second one for the handler, so that a
handler that ignores its cancellation delays no answer. `start`, `commit` and `cancel` never wait,
so the reader of the stream never does either; an invocation that waits for a slot of its tool
waits in its own task, and its cancellation does not.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import cast

import grpc

from precall import _telemetry
from precall._context import RunLink, ToolContext
from precall._errors import PrecallError, ServerError
from precall._options import ClientOptions
from precall._pool import HandlerPool, look_at
from precall._results import ResultError, ResultWriter
from precall._scope import TaskScope
from precall._server import ServerLimits
from precall._tool import Tool
from precall.v1 import agent_pb2, invocation_pb2

logger = logging.getLogger("precall")

MESSAGE_CHARACTERS_MAX = 2000
_LEAVES_MAX = 8
"""How many errors of a group are told."""
_LEAF_CHARACTERS_MAX = 200
_FRAME_OVERHEAD_BYTES = 1024  # the part of a frame that is not the result

Send = Callable[[agent_pb2.ConverseRequest], Awaitable[object]]


@dataclass(slots=True)
class _Run:
    """One invocation in flight."""

    invoke: invocation_pb2.Invoke
    timeout_s: float | None
    link: RunLink
    unwanted: asyncio.Future[None]

    def cancel(self) -> None:
        if not self.unwanted.done():
            self.unwanted.set_result(None)


class Invocations:
    """The handlers of one conversation."""

    def __init__(
        self, send: Send, *, pool: HandlerPool, limits: ServerLimits, options: ClientOptions
    ) -> None:
        self.tools: dict[str, Tool] = {}
        """The tools that can be invoked, by name."""
        self._send = send
        self._pool = pool
        self._options = options
        sizes = (limits.result_bytes_max, limits.frame_bytes_max - _FRAME_OVERHEAD_BYTES)
        self._result_bytes_max = min((size for size in sizes if size > 0), default=0)
        self._runs: dict[str, _Run] = {}
        self._begun: dict[str, bool] = {}
        """The tools whose handlers have begun in the last turn: whether they may have effects."""
        self._begun_in = ""
        """The id of that turn."""
        self._refusals = 0
        self._scope = TaskScope()

    def start(self, invoke: invocation_pb2.Invoke, turn: contextvars.Context) -> None:
        """Starts a run; its answer is sent when it ends.

        Above `invocations_max` runs, an invocation is refused with an error.

        Args:
            invoke: The invocation.
            turn: The context variables of its turn, of which the run gets a copy.

        Raises:
            ServerError: As many refusals wait to be sent: the server takes no answers.
        """
        if len(self._runs) >= self._options.invocations_max:
            self._refuse(invoke)
            return
        timeout_s = invoke.timeout.ToMilliseconds() / 1000 if invoke.HasField("timeout") else None
        link = RunLink(
            self._progress_of(invoke.invocation_id),
            timeout_s=timeout_s,
            call_id=invoke.call_id,
            speculative=bool(invoke.prediction_id) and not invoke.call_id,
        )
        run = _Run(invoke, timeout_s, link, asyncio.get_running_loop().create_future())
        self._runs[invoke.invocation_id] = run
        # The whole run, since validators of arguments are code of the handler's owner, too.
        self._scope.start(
            self._serve(run),
            name=f"precall invocation of {invoke.tool_name}",
            context=_telemetry.handler_context(turn, invoke.trace_context),
        )

    def commit(self, committed: invocation_pb2.InvocationCommitted) -> None:
        """Tells a handler that the model made its call. Ignored if the run has ended."""
        run = self._runs.get(committed.invocation_id)
        if run is not None and not run.unwanted.done():
            run.link.commit(committed.call_id)

    def cancel(self, cancelled: invocation_pb2.CancelInvocation) -> None:
        """Cancels a run. One that has ended stays as it is."""
        run = self._runs.get(cancelled.invocation_id)
        if run is not None:
            reason = invocation_pb2.InvocationCancelReason.Name(cancelled.reason)
            logger.debug("a run of %s is cancelled: %s", run.invoke.tool_name, reason)
            run.cancel()

    def begun(self, turn_id: str) -> Mapping[str, bool]:
        """Returns the tools whose handlers have begun in a turn, and whether they may have effects.

        It is known of the last turn only.
        """
        return dict(self._begun) if turn_id == self._begun_in else {}

    def cancel_all(self) -> None:
        """Cancels every run."""
        for run in self._runs.values():
            run.cancel()

    async def close(self) -> None:
        """Cancels every run and waits for its end, in a bounded time."""
        self.cancel_all()
        await self._scope.close(self._options.close_timeout_s)

    def _note_begun(self, run: _Run, tool: Tool) -> None:
        if run.invoke.turn_id != self._begun_in:
            self._begun_in, self._begun = run.invoke.turn_id, {}
        self._begun[tool.name] = not tool.options.get("read_only", False)

    def _refuse(self, invoke: invocation_pb2.Invoke) -> None:
        text = f"this client has {len(self._runs)} invocations in flight and takes no more"
        if self._refusals >= self._options.invocations_max:
            raise ServerError(
                f"{text}; the server sent {self._refusals} above that and took no answer to them",
                code=grpc.StatusCode.RESOURCE_EXHAUSTED,
            )
        self._refusals += 1

        async def refuse() -> None:
            try:
                await self._answer(invoke, _error("TooManyInvocations", text))
            finally:
                self._refusals -= 1

        self._scope.start(refuse(), name=f"precall refusal of {invoke.tool_name}")

    async def _serve(self, run: _Run) -> None:
        try:
            try:
                result = await self._run(run)
            except Exception:  # every invocation is answered, even when a __str__ raises
                logger.exception("an invocation of %s could not be served", run.invoke.tool_name)
                result = _error("RuntimeError", "the call failed in the client; see its log")
            await self._answer(run.invoke, result)
        finally:
            # Only now: results that wait to be sent count towards `invocations_max`.
            if self._runs.get(run.invoke.invocation_id) is run:
                del self._runs[run.invoke.invocation_id]

    async def _run(self, run: _Run) -> invocation_pb2.InvocationResult:
        """Returns the handler's ending, or an error when it did not end in time."""
        invoke = run.invoke
        tool = self.tools.get(invoke.tool_name)
        if tool is None:
            return _error("ToolUnknown", f"this client has no tool {invoke.tool_name!r}")
        try:
            arguments = tool.signature.bind(invoke.arguments_json, _context(run))
        except ValueError as error:
            return _error("ArgumentsInvalid", str(error))
        writer = ResultWriter(self._result_bytes_max, lambda: run.link.cancelled)
        handler = self._scope.start(
            self._pool.run(tool, arguments, writer, on_begin=lambda: self._note_begun(run, tool)),
            name=f"precall handler of {tool.name}",
        )
        handler.add_done_callback(look_at)
        try:
            await asyncio.wait(
                {handler, run.unwanted}, timeout=run.timeout_s, return_when=asyncio.FIRST_COMPLETED
            )
            if handler.done():
                return self._ended(tool, handler)
            run.link.cancel()
            handler.cancel()
            # At the deadline the server decides too, and may cancel instead: wait for its word.
            await asyncio.wait({handler, run.unwanted}, timeout=self._options.cancel_grace_s)
        finally:
            run.link.end()
        if run.unwanted.done():
            if handler.done() and not handler.cancelled() and handler.exception() is None:
                return self._ended(tool, handler)  # it finished: the server may want the result
            return _cancelled()
        return _error("TimeoutError", f"the handler took longer than {run.timeout_s:g} s")

    def _progress_of(self, invocation_id: str) -> Callable[[str, float | None], Awaitable[None]]:
        """Returns the function that sends the progress of one run."""

        async def send(message: str, fraction: float | None) -> None:
            frame = invocation_pb2.InvocationProgress(
                invocation_id=invocation_id, message=message, fraction=fraction
            )
            await self._send(agent_pb2.ConverseRequest(invocation_progress=frame))

        return send

    def _ended(self, tool: Tool, handler: asyncio.Task[str]) -> invocation_pb2.InvocationResult:
        """Returns the answer for a handler that ended by itself.

        The model gets a failure in words; the traceback goes to the program's log.
        """
        if handler.cancelled():
            return _error("CancelledError", "the handler was cancelled within the client")
        error = handler.exception()
        if error is not None:
            logger.warning("tool %s failed", tool.name, exc_info=error)
            if isinstance(error, ResultError):
                return _error(error.kind, str(error))
            return _error(type(error).__name__, _said(error) or "the handler gave no message")
        return invocation_pb2.InvocationResult(result_json=handler.result())

    async def _answer(
        self, invoke: invocation_pb2.Invoke, result: invocation_pb2.InvocationResult
    ) -> None:
        result.invocation_id = invoke.invocation_id
        try:
            await self._send(agent_pb2.ConverseRequest(invocation_result=result))
        except PrecallError as error:
            logger.debug("the result of %s could not be sent: %s", invoke.tool_name, error)


def _context(run: _Run) -> ToolContext:
    invoke = run.invoke
    return ToolContext(
        tool_name=invoke.tool_name,
        conversation_id=invoke.conversation_id,
        turn_id=invoke.turn_id,
        prediction_id=invoke.prediction_id,
        execution_id=invoke.execution_id,
        traceparent=invoke.trace_context.traceparent,
        tracestate=invoke.trace_context.tracestate,
        _link=run.link,
    )


def _said(error: BaseException) -> str:
    """Returns the message of an error; that of a group has the errors in it."""
    if not isinstance(error, BaseExceptionGroup):
        return str(error)
    inside = list(_inside(cast(BaseException, error)))
    shown = [f"{type(one).__name__}: {one}"[:_LEAF_CHARACTERS_MAX] for one in inside[:_LEAVES_MAX]]
    if len(inside) > len(shown):
        shown.append(f"and {len(inside) - len(shown)} more")
    return f"{error.message}: {'; '.join(shown)}"


def _inside(error: BaseException) -> Iterator[BaseException]:
    """Yields the errors of a group and of the groups in it, or the error itself."""
    if not isinstance(error, BaseExceptionGroup):
        yield error
        return
    for part in cast("BaseExceptionGroup[BaseException]", error).exceptions:
        yield from _inside(part)


def _error(kind: str, message: str) -> invocation_pb2.InvocationResult:
    if len(message) > MESSAGE_CHARACTERS_MAX:
        message = message[:MESSAGE_CHARACTERS_MAX] + " ... (cut)"
    # A frame holds only valid UTF-8, and a message may hold half a surrogate pair.
    readable = message.encode("utf-8", "replace").decode()
    return invocation_pb2.InvocationResult(
        error=invocation_pb2.InvocationError(type=kind, message=readable)
    )


def _cancelled() -> invocation_pb2.InvocationResult:
    return invocation_pb2.InvocationResult(cancelled=invocation_pb2.InvocationCancelled())
