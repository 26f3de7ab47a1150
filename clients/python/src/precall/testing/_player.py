"""Plays the script of one turn on a fake server's stream."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import TypeAlias

import pydantic
import pydantic_core
from google.protobuf.duration_pb2 import Duration
from google.rpc.status_pb2 import Status

from precall import _events, _frames
from precall.testing import _script
from precall.testing._script import Call, Disconnect, Entry, Fail, Hang, Parallel, Refuse, Say
from precall.testing._status import status
from precall.v1 import agent_pb2, invocation_pb2, tool_pb2, turn_pb2

Frame: TypeAlias = agent_pb2.ConverseResponse
Emit: TypeAlias = Callable[[Frame], Awaitable[None]]

_CHARACTERS_PER_TOKEN = 4


class BrokenStreamError(Exception):
    """The script breaks the stream."""


class TurnPlayer:
    """One turn of a fake server."""

    def __init__(
        self,
        start: turn_pb2.StartTurn,
        entries: Sequence[Entry],
        *,
        conversation_id: str,
        tools: Mapping[str, tool_pb2.Tool],
        default_timeout: Duration,
        emit: Emit,
    ) -> None:
        self.start = start
        self.results: list[_script.ToolResult] = []
        """How its calls ended, in the order of the calls."""
        self._entries = entries
        self._conversation_id = conversation_id
        self._tools = tools
        self._default_timeout = default_timeout
        self._emit_frame = emit
        self._waiting: dict[str, asyncio.Future[invocation_pb2.InvocationResult]] = {}
        self._calls = 0
        self._step = 0
        self._step_is_open = False
        self._output_tokens = 0
        self._text = ""

    async def play(self) -> None:
        """Plays the turn to its end. On cancel: it ends as cancelled on the wire, too."""
        try:
            await self._emit(Frame(turn_started=turn_pb2.TurnStarted()))
            error = await self._play_entries()
        except asyncio.CancelledError:
            # The fake's own end cancels too; then these frames go nowhere and harm nobody.
            if self._step_is_open:
                await self._end_step(turn_pb2.STEP_FINISH_REASON_ABORTED)
            await self._complete(turn_pb2.TURN_OUTCOME_CANCELLED)
            return
        outcome = turn_pb2.TURN_OUTCOME_FAILED if error else turn_pb2.TURN_OUTCOME_ANSWERED
        await self._complete(outcome, error)

    def owns(self, invocation_id: str) -> bool:
        """Returns whether an invocation waits for its result."""
        return invocation_id in self._waiting

    def settle(self, result: invocation_pb2.InvocationResult) -> None:
        """Takes the ending of an invocation."""
        future = self._waiting[result.invocation_id]
        if not future.done():
            future.set_result(result)

    async def progress(self, said: invocation_pb2.InvocationProgress) -> None:
        """Passes a handler's progress on."""
        await self._emit(
            Frame(
                tool_call_progress=turn_pb2.ToolCallProgress(
                    call_id=said.invocation_id.removeprefix("run-"),
                    message=said.message,
                    fraction=said.fraction if said.HasField("fraction") else None,
                )
            )
        )

    async def _play_entries(self) -> Status | None:
        """Plays entry by entry; returns why the turn failed, if it did."""
        for entry in self._entries:
            step = entry(tuple(self.results)) if callable(entry) else entry
            match step:
                case Say(text, reasoning):
                    await self._begin_step(text, reasoning)
                    await self._end_step(turn_pb2.STEP_FINISH_REASON_STOP)
                    return None
                case Call(_, _, text, reasoning):
                    await self._begin_step(text, reasoning)
                    if error := await self._call_all([step]):
                        return error
                case Parallel(calls):
                    await self._begin_step("", "")
                    if error := await self._call_all(calls):
                        return error
                case Fail(reason, message, retry_after_s) | Refuse(reason, message, retry_after_s):
                    return status(reason, message, retry_after_s)
                case Disconnect():
                    raise BrokenStreamError
                case Hang(text):
                    await self._begin_step(text, "")
                    await asyncio.get_running_loop().create_future()
        return None

    async def _begin_step(self, text: str, reasoning: str) -> None:
        prompt_tokens = 10 * (self._step + 1)
        await self._emit(
            Frame(step_started=turn_pb2.StepStarted(step=self._step, prompt_tokens=prompt_tokens))
        )
        self._step_is_open = True
        for piece in _pieces(reasoning):
            await self._emit(Frame(reasoning_delta=turn_pb2.ReasoningDelta(text=piece)))
        for piece in _pieces(text):
            await self._emit(Frame(text_delta=turn_pb2.TextDelta(text=piece)))
        self._text = text

    async def _end_step(self, reason: turn_pb2.StepFinishReason.ValueType) -> None:
        tokens = max(1, len(self._text) // _CHARACTERS_PER_TOKEN)
        self._output_tokens += tokens
        await self._emit(
            Frame(
                step_completed=turn_pb2.StepCompleted(
                    step=self._step,
                    finish_reason=reason,
                    usage=turn_pb2.TokenUsage(output_tokens=tokens),
                )
            )
        )
        self._step += 1
        self._step_is_open = False

    async def _call_all(self, calls: Sequence[Call]) -> Status | None:
        """Writes and runs the calls of one step; returns why that is impossible, if it is."""
        for call in calls:
            if call.tool_name not in self._tools:
                return status(
                    "INTERNAL",
                    f"the script calls {call.tool_name!r}, which this conversation has not "
                    f"registered; it has: {', '.join(self._tools) or 'none'}",
                )
        called = [(self._next_call_id(), call) for call in calls]
        for call_id, call in called:
            await self._write_call(call_id, call)
        await self._end_step(turn_pb2.STEP_FINISH_REASON_TOOL_CALLS)
        async with asyncio.TaskGroup() as group:
            runs = [group.create_task(self._run(call_id, call)) for call_id, call in called]
        self.results.extend(run.result() for run in runs)
        return None

    def _next_call_id(self) -> str:
        self._calls += 1
        return f"call-{self.start.turn_id}-{self._calls}"

    async def _write_call(self, call_id: str, call: Call) -> None:
        arguments_json = _arguments_json(call)
        await self._emit(
            Frame(
                tool_call_started=turn_pb2.ToolCallStarted(
                    call_id=call_id, tool_name=call.tool_name
                )
            )
        )
        half = len(arguments_json) // 2
        for fragment in (arguments_json[:half], arguments_json[half:]):
            await self._emit(
                Frame(
                    tool_call_arguments_delta=turn_pb2.ToolCallArgumentsDelta(
                        call_id=call_id, json_fragment=fragment
                    )
                )
            )
        await self._emit(
            Frame(
                tool_call_ready=turn_pb2.ToolCallReady(
                    call_id=call_id, tool_name=call.tool_name, arguments_json=arguments_json
                )
            )
        )

    async def _run(self, call_id: str, call: Call) -> _script.ToolResult:
        """Has the client run one call and says how it ended, also when the turn is cancelled."""
        invocation_id = f"run-{call_id}"
        tool = self._tools[call.tool_name]
        timeout = tool.timeout if tool.HasField("timeout") else self._default_timeout
        future: asyncio.Future[invocation_pb2.InvocationResult]
        future = asyncio.get_running_loop().create_future()
        self._waiting[invocation_id] = future
        invoke = invocation_pb2.Invoke(
            invocation_id=invocation_id,
            execution_id=f"execution-{call_id}",
            call_id=call_id,
            turn_id=self.start.turn_id,
            conversation_id=self._conversation_id,
            tool_name=call.tool_name,
            tool_version=tool.version,
            arguments_json=_arguments_json(call),
            timeout=timeout,
            trace_context=self.start.trace_context,
        )
        completed = turn_pb2.ToolCallCompleted(call_id=call_id)
        await self._emit(Frame(invoke=invoke))
        reason = invocation_pb2.INVOCATION_CANCEL_REASON_TURN_ENDED
        try:
            async with asyncio.timeout(_frames.seconds(timeout)):
                _fill(completed, await future)
        except TimeoutError:
            reason = invocation_pb2.INVOCATION_CANCEL_REASON_TIMEOUT
            completed.outcome = turn_pb2.TOOL_CALL_OUTCOME_TIMEOUT
            completed.error.CopyFrom(status("TOOL_TIMEOUT", "the handler did not answer in time"))
        except asyncio.CancelledError:
            completed.outcome = turn_pb2.TOOL_CALL_OUTCOME_CANCELLED
            completed.error.CopyFrom(status("CANCELLED", "the turn was cancelled"))
            raise
        finally:
            del self._waiting[invocation_id]
            if not future.done() or future.cancelled():
                cancel = invocation_pb2.CancelInvocation(invocation_id=invocation_id, reason=reason)
                await self._emit_frame(Frame(cancel_invocation=cancel))
            await self._emit(Frame(tool_call_completed=completed))
        return _seen(call, completed, future)

    async def _complete(
        self, outcome: turn_pb2.TurnOutcome.ValueType, error: Status | None = None
    ) -> None:
        report = turn_pb2.TurnReport(
            steps=self._step,
            tool_calls=self._calls,
            usage=turn_pb2.TokenUsage(output_tokens=self._output_tokens),
        )
        completed = turn_pb2.TurnCompleted(
            outcome=outcome, text=self._text, error=error, report=report
        )
        await self._emit(Frame(turn_completed=completed))

    async def _emit(self, frame: Frame) -> None:
        frame.turn_id = self.start.turn_id
        await self._emit_frame(frame)


def _arguments_json(call: Call) -> str:
    return json.dumps(dict(call.arguments))


def _pieces(text: str) -> Iterator[str]:
    """Yields a text word by word, as a model writes it."""
    start = 0
    while start < len(text):
        end = text.find(" ", start + 1)
        end = len(text) if end < 0 else end
        yield text[start:end]
        start = end


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


def _seen(
    call: Call,
    completed: turn_pb2.ToolCallCompleted,
    future: asyncio.Future[invocation_pb2.InvocationResult],
) -> _script.ToolResult:
    """Returns an ending as scripts and tests see it."""
    value: pydantic.JsonValue = None
    if completed.result_json:
        value = pydantic_core.from_json(completed.result_json)
    failed = completed.outcome == turn_pb2.TOOL_CALL_OUTCOME_ERROR
    return _script.ToolResult(
        tool_name=call.tool_name,
        arguments=dict(call.arguments),
        outcome=_frames.member(
            _events.ToolCallOutcome, turn_pb2.ToolCallOutcome.DESCRIPTOR, completed.outcome
        ),
        value=value,
        error_type=future.result().error.type if failed else "",
        error_message=future.result().error.message if failed else "",
    )
