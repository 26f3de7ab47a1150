"""The path of a call: from what the model wrote to its one ending.

    validate ─▶ cache ─▶ claim ─▶ dispatch ─▶ record

The calls of a step take the path concurrently and independently. A call claims the run that was
started for a prediction of it, if there is one. Everything else that can answer a call without a
new run, or prevent its run, belongs between validating and dispatching: first a person's approval,
then the cache.

Owns: which calls have no ending yet, and which tools may have had effects.
Never: generates tokens or runs handlers; the engine and the dispatcher do.
Concurrency: `answer` runs one task per call; the other methods are called while it is not running.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from precall_service.agent import refusals
from precall_service.agent.account import CallTaken
from precall_service.agent.cached_calls import CallAnswer
from precall_service.agent.early_run import EarlyRun
from precall_service.agent.scope import TurnScope
from precall_service.agent.step import Step
from precall_service.cache.base import Lookup
from precall_service.cache.query import CacheQuery, cache_query
from precall_service.cache.writes import ToolWrite
from precall_service.domain.endings import InvocationEnding, model_text
from precall_service.domain.errors import Reason, ServiceError
from precall_service.domain.events import (
    ContentPart,
    InvocationCancelReason,
    ToolCallCompleted,
    ToolCallProgress,
    TraceContext,
)
from precall_service.domain.json import JsonObject
from precall_service.domain.messages import ToolCall
from precall_service.tools.run import InvocationContext, ProgressListener, Run, run_time_max_s
from precall_service.tools.toolset import RegisteredTool


@dataclass(slots=True)
class _OpenCall:
    ready_at: float
    completed: ToolCallCompleted | None = None
    """The ending, while it is known but not yet sent to the client."""


class TurnCalls:
    """The calls of one turn, step after step."""

    def __init__(self, scope: TurnScope, trace_context: Callable[[str], TraceContext]) -> None:
        self._scope = scope
        self._tools = {tool.name: tool for tool in scope.context.tools}
        self._trace_context = trace_context
        self._open: dict[str, _OpenCall] = {}
        self._in_doubt: set[str] = set()
        """Calls whose invocation was sent and that may have had effects."""
        self._effects: dict[str, None] = {}

    @property
    def effects(self) -> tuple[str, ...]:
        """The tools that may have had effects: not read-only, and an invocation was sent.

        They are in the order in which their first runs ended.
        """
        return tuple(self._effects)

    def open(self, told: Mapping[str, float]) -> None:
        """Opens a step's calls that were sent to the client, each with the time it was ready."""
        self._open = {call_id: _OpenCall(ready_at) for call_id, ready_at in told.items()}

    async def end_unmade(self, step: Step) -> None:
        """Ends the open calls that a limit or a stop text cut, so that the message has none."""
        made = {call.call_id for call in step.message.tool_calls}
        stop_text = step.end.stop_text if step.cut_by_stop_text else ""
        for call_id in [call_id for call_id in self._open if call_id not in made]:
            await self._end(call_id, CallAnswer(ending=refusals.call_not_made(stop_text)))

    async def answer(self, calls: Sequence[ToolCall], unreadable: Mapping[str, str]) -> None:
        """Returns once each call's ending is in the transcript and was sent to the client.

        `unreadable` are the calls that do not run, by id, each with what the model is told.

        On cancel: the runs are discarded and their processes notified; the caller must still call
        `end_all`.
        """
        async with asyncio.TaskGroup() as group:
            for call in calls:
                group.create_task(
                    self._answer(call, unreadable.get(call.call_id)),
                    name=f"call of {self._scope.who}",
                )

    async def end_all(self) -> None:
        """Ends every open call, because the turn ends."""
        unanswered = {call.call_id: call for call in self._scope.transcript.unanswered}
        for call_id, call in unanswered.items():
            self._scope.transcript.keep_answer(call, model_text(self._outlived(call_id)))
        for call_id in tuple(self._open):
            await self._end(call_id, CallAnswer(ending=self._outlived(call_id)))

    async def _answer(self, call: ToolCall, problem: str | None) -> None:
        if problem is None:
            answer = await self._answered(call)
        else:
            answer = CallAnswer(ending=refusals.call_unreadable(problem))
        self._scope.transcript.keep_answer(call, model_text(answer.ending))
        self._scope.speculation.ran(call.call_id, answer.run_time_s)
        await self._end(call.call_id, answer)

    async def _answered(self, call: ToolCall) -> CallAnswer:
        tool = self._tools.get(call.tool_name)
        if tool is None:
            return CallAnswer(ending=refusals.call_of_unknown_tool(call.tool_name, self._tools))
        self._scope.account.note(CallTaken(call.call_id, call.tool_name))
        while True:
            try:
                current = self._scope.services.dispatcher.current(tool)
                arguments = await self._scope.services.dispatcher.check_arguments(
                    current, call.arguments_json
                )
            except ServiceError as error:
                return CallAnswer(ending=InvocationEnding.of_error(error))
            context = self._scope.context
            query = cache_query(
                context.tenant, context.conversation_id, current.declaration, arguments
            )
            if query is not None:
                answer = await self._from_cache_or_run(current, call, query)
            elif (early := await self._scope.speculation.claim(current, call)) is not None:
                answer = await self._from_early_run(current, call, early)
            else:
                answer = await self._run(current, call, arguments)
            if answer is not None:
                return answer

    async def _from_cache_or_run(
        self, tool: RegisteredTool, call: ToolCall, query: CacheQuery
    ) -> CallAnswer | None:
        """Returns the answer to a call; None if the tool was updated before it could run."""

        def launch(lookup: Lookup | None) -> Run | EarlyRun:
            early = self._scope.speculation.claim_after(tool, call, lookup)
            # Pinned, because the query was made from this declaration of the tool.
            return early or self._launch(tool, call, pinned=True)

        answer = await self._scope.services.cached_calls.answer(
            tool, query, launch, self._progress_of(call)
        )
        return None if _was_updated(tool, answer.ending) else answer

    async def _from_early_run(
        self, tool: RegisteredTool, call: ToolCall, early: EarlyRun
    ) -> CallAnswer | None:
        """Awaits the run that the call has claimed.

        Returns the answer; None if the tool was updated before the run had a slot.
        """
        early.run.on_progress(self._progress_of(call))
        try:
            ending = await early.run.ending()
        except asyncio.CancelledError:
            early.run.discard(InvocationCancelReason.TURN_ENDED)
            await early.run.closed()
            raise
        return None if _was_updated(tool, ending) else CallAnswer.of_early_run(ending, early)

    async def _run(self, tool: RegisteredTool, call: ToolCall, arguments: JsonObject) -> CallAnswer:
        """Runs the handler for this call alone, and records what it writes."""
        write = self._write(tool, arguments)
        if write is not None:
            try:
                await write.begin(run_time_max_s(tool))
            except asyncio.CancelledError:
                write.end_later()  # or else, it would be pending until it is overdue
                raise
        run = self._launch(tool, call)
        run.on_progress(self._progress_of(call))
        try:
            return CallAnswer.of_run(run, await run.ending())
        except asyncio.CancelledError:
            run.discard(InvocationCancelReason.TURN_ENDED)
            await run.closed()
            raise
        finally:
            if run.sent and not run.tool.declaration.effects.read_only:
                self._in_doubt.add(call.call_id)
                self._effects[tool.name] = None
            await self._end_write(write, tool, run, arguments)

    async def _end_write(
        self, write: ToolWrite | None, tool: RegisteredTool, run: Run, arguments: JsonObject
    ) -> None:
        """Records what a run wrote. `tool` is the declaration with which the write was announced.

        If the tool was updated while the run waited, what the update declares is recorded, too.
        """
        if run.tool is not tool or write is None:
            by_now = self._write(run.tool, arguments)
            write = by_now if write is None else write.and_also(by_now)
        if run.ended is None or run.ended.error is not None:
            run.on_late_answer(partial(self._written_late, run.tool, arguments))
        if write is not None:
            await write.end()

    def _written_late(self, tool: RegisteredTool, arguments: JsonObject) -> None:
        """Records the write of a handler that answered after its run had ended."""
        if (write := self._write(tool, arguments)) is not None:
            write.end_later()

    def _write(self, tool: RegisteredTool, arguments: JsonObject) -> ToolWrite | None:
        """Returns what a run of the tool writes; None if it cannot make anything stale."""
        context = self._scope.context
        return self._scope.services.cache.write(
            context.tenant, context.conversation_id, tool.declaration, arguments
        )

    def _launch(self, tool: RegisteredTool, call: ToolCall, *, pinned: bool = False) -> Run:
        return self._scope.services.dispatcher.launch(
            tool=tool,
            arguments_json=call.arguments_json,
            context=InvocationContext(
                turn_id=self._scope.spec.turn_id,
                conversation_id=self._scope.context.conversation_id,
                trace_context=self._trace_context(call.call_id),
            ),
            call_id=call.call_id,
            pinned=pinned,
        )

    def _progress_of(self, call: ToolCall) -> ProgressListener:
        def offer(message: str, fraction: float | None) -> None:
            self._scope.offer(ToolCallProgress(call.call_id, message, fraction))

        return offer

    async def _end(self, call_id: str, answer: CallAnswer) -> None:
        """Sends a call's ending. If a cancel interrupted an earlier attempt, sends that ending."""
        call, ending = self._open[call_id], answer.ending
        if call.completed is None:
            call.completed = ToolCallCompleted(
                call_id,
                ending.outcome,
                ending.result_json,
                ending.error,
                wait_time_s=self._scope.services.clock.now() - call.ready_at,
                source=answer.source,
                cache_entry_version=answer.entry_version,
                cache_age_s=answer.age_s,
                prediction_id=answer.prediction_id,
                time_saved_s=answer.time_saved_s,
                content=(ContentPart(text=ending.content),) if ending.content else (),
            )
            self._scope.account.note(call.completed)
        await self._scope.emit(call.completed)
        del self._open[call_id]

    def _outlived(self, call_id: str) -> InvocationEnding:
        return refusals.call_outlived(in_doubt=call_id in self._in_doubt)


def _was_updated(tool: RegisteredTool, ending: InvocationEnding) -> bool:
    """Returns whether a run could not start because its tool was updated."""
    error = ending.error
    unavailable = error is not None and error.reason is Reason.TOOL_UNAVAILABLE
    return unavailable and tool.current() not in (tool, None)
