"""One turn: from the user's message to the model's answer, step after step beside the engine.

Owns: the turn's record while it runs, its share of the engine, its one ending.
Never: encodes, or decides what a conversation keeps (the ending says; the conversation does).
Concurrency: `run` is one coroutine; `cancel` may be called at any time.

A step's prompt is the previous prompt, the tokens that the model sampled, and what the template
writes for the results: never a second rendering, so the KV cache of the prefix always hits.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
from collections.abc import Awaitable, Callable, Sequence

from precall_service.admission import Share
from precall_service.agent import refusals
from precall_service.agent.calls import OpenCalls
from precall_service.agent.context import TurnContext, TurnEnding, TurnServices
from precall_service.agent.record import TurnRecord
from precall_service.agent.report import Stopwatch
from precall_service.agent.step import Step, StepReader
from precall_service.agent.traces import (
    step_settings,
    trace_call_ending,
    trace_ending,
    trace_step_ending,
)
from precall_service.domain.clock import Timer
from precall_service.domain.errors import Reason, ServiceError
from precall_service.domain.events import (
    StepCompleted,
    StepStarted,
    ToolCallProgress,
    TurnCompleted,
    TurnEvent,
    TurnQueued,
    TurnStarted,
)
from precall_service.domain.messages import Message, ToolCall
from precall_service.domain.turn import (
    StepFinish,
    TokenUsage,
    TraceContext,
    TurnOutcome,
    TurnSpec,
)
from precall_service.engine.base import (
    Engine,
    EngineDiedError,
    EngineState,
    Finish,
    GenerationRefusedError,
    Priority,
    Prompt,
    StepSpec,
)
from precall_service.tools.dispatch import InvocationContext
from precall_service.tools.endings import InvocationEnding, model_text
from precall_service.tools.toolset import RegisteredTool
from precall_tracing.turns import TurnTrace

log = logging.getLogger(__name__)

Emit = Callable[[TurnEvent], Awaitable[None]]
Offer = Callable[[TurnEvent], None]


class Turn:
    """Runs once. What it emits ends with exactly one TurnCompleted, unless `run` is cancelled."""

    def __init__(
        self,
        *,
        spec: TurnSpec,
        context: TurnContext,
        services: TurnServices,
        emit: Emit,
        offer: Offer,
    ) -> None:
        self.spec = spec
        self._context = context
        self._services = services
        self._emit = emit
        self._offer = offer
        self._tools = {tool.declaration.name: tool for tool in context.tools}
        self._declarations = tuple(tool.declaration for tool in context.tools)
        self._record = TurnRecord(context.transcript, context.tail, spec.text)
        self._watch = Stopwatch(services.clock)
        self._tokens_left = spec.limits.max_turn_tokens
        self._held = 0
        """Tokens of KV that the turn has come to hold."""
        self._step = 0
        self._reader: StepReader | None = None
        self._calls = OpenCalls(emit, services.clock)
        self._effects: dict[str, None] = {}
        """Tools with effects that were called, in the order of their first call."""
        self._step_ended: StepCompleted | None = None
        """The ending of a step that the client has not been told."""
        self._work: asyncio.Task[None] | None = None
        self._stop: tuple[TurnOutcome, ServiceError] | None = None
        self._timer: Timer | None = None
        self._outcome = TurnOutcome.ANSWERED
        self._error: ServiceError | None = None

    def cancel(self, error: ServiceError, outcome: TurnOutcome = TurnOutcome.CANCELLED) -> None:
        """Ends the turn as soon as possible, with this outcome. The first reason stands."""
        if self._stop is None:
            self._stop = (outcome, error)
            if self._work is not None:
                self._work.cancel()

    async def run(self) -> TurnEnding:
        """The turn's ending, told to the client before it is returned.

        On cancel (the client is gone): the engine's generation and the handlers' runs are
        cancelled, the share is given back, and nothing more is emitted.
        """
        context = self._context
        self._trace = TurnTrace(
            self._services.tracer,
            parent=self.spec.trace_context.carrier(),
            conversation_id=context.conversation_id,
            tenant=context.tenant,
            turn_id=self.spec.turn_id,
            agent_name=context.agent_name,
            model=context.model,
        )
        with self._trace:
            try:
                async with asyncio.TaskGroup() as group:
                    self._work = group.create_task(self._work_to_ending())
                    if self._stop is not None:
                        self._work.cancel()
            finally:
                if self._timer is not None:
                    self._timer.cancel()
            if self._work.cancelled():
                by_itself = TurnOutcome.FAILED, refusals.step_given_up()
                self._outcome, self._error = self._stop or by_itself
            return await self._end()

    async def _work_to_ending(self) -> None:
        """The steps, with every failure turned into the turn's outcome."""
        try:
            await self._admit_and_step()
        except ServiceError as error:
            self._set(TurnOutcome.FAILED, error)
        except EngineDiedError:
            self._set(TurnOutcome.FAILED, self._services.engines.died())
        except GenerationRefusedError as error:
            self._set(TurnOutcome.FAILED, ServiceError(Reason.ENGINE_FAILED, str(error)))
        except Exception:  # a defect of ours must still give the client its ending
            incident = secrets.token_hex(4)
            log.exception("turn failed, incident %s", incident)
            self._set(TurnOutcome.FAILED, refusals.defect(incident))

    def _set(self, outcome: TurnOutcome, error: ServiceError) -> None:
        self._outcome, self._error = outcome, error

    async def _admit_and_step(self) -> None:
        services, limits = self._services, self.spec.limits
        engine = services.engines.engine()
        prompt = await self._record.first_prompt(engine)
        if not _fits(engine, prompt):
            raise _too_long(engine, prompt)
        tenant, tool_set = self._context.tenant, _tool_set(self._context.tools)
        # Results may take as much again as what is generated: a first value on the safe side.
        safe = min(2 * limits.max_turn_tokens, engine.info.context_tokens_max - len(prompt))
        expected = len(prompt) + services.growth.expected(tenant, tool_set, safe=safe)
        with services.admission.enter(tenant, expected) as share:
            wait_max_s = services.admission.limits.wait_max_s
            self._timer = services.clock.call_later(wait_max_s, self._give_up_waiting)
            while (place := await share.place()) is not None:
                # Never waited for: a client that does not read must not sit on its share.
                self._offer(TurnQueued(place))
            self._timer.cancel()
            self._timer = services.clock.call_later(limits.max_duration_s, self._expire)
            await self._emit(TurnStarted(self._watch.admitted()))
            await self._step_until_done(prompt, share)
            services.growth.observe(tenant, tool_set, self._held - len(prompt))

    def _give_up_waiting(self) -> None:
        engines, limits = self._services.engines, self._services.admission.limits
        no_engine = engines.unavailable() if engines.running is None else None
        error = no_engine or refusals.waited_too_long(limits.wait_max_s, limits.retry_after_s)
        self.cancel(error, TurnOutcome.FAILED)

    def _expire(self) -> None:
        error = refusals.turn_timeout(self.spec.limits.max_duration_s)
        self.cancel(error, TurnOutcome.LIMIT)

    async def _step_until_done(self, prompt: Prompt, share: Share) -> None:
        """Steps until the turn has its outcome."""
        engine = self._services.engines.engine()  # it may have been replaced; tokens fit any
        choice = self.spec.generation.tool_choice
        limits = self.spec.limits
        while True:
            spec = StepSpec(
                step_id=f"{self._context.conversation_id}-{secrets.token_hex(6)}",
                max_tokens=self._step_tokens(engine, prompt),
                generation=self.spec.generation,
                tools=self._declarations,
                tool_choice=choice,
                priority=Priority.CONTINUES_TURN if self._step else Priority.STARTS_TURN,
                tenant=self._context.tenant,
                template_variables=self._context.transcript.template_variables,
            )
            step = await self._generate(engine, prompt, spec)
            self._hold(share, len(prompt) + len(step.end.token_ids))
            if not step.message.tool_calls:
                if step.end.finish is Finish.LENGTH:
                    self._set(TurnOutcome.LIMIT, refusals.step_cut(spec.max_tokens))
                return
            if self._step + 1 == limits.max_steps:
                self._set(TurnOutcome.LIMIT, refusals.too_many_steps(limits.max_steps))
                return
            if self._tokens_left <= 0:
                self._set(TurnOutcome.LIMIT, refusals.too_many_tokens(limits.max_turn_tokens))
                return
            await self._answer(step.message.tool_calls, share)
            engine = self._services.engines.engine()
            prompt = await self._record.continued_prompt(engine)
            if not _fits(engine, prompt):
                # With them, no later turn would fit either.
                self._record.replace_answers(model_text(refusals.answer_too_long()))
                self._set(TurnOutcome.LIMIT, _too_long(engine, prompt))
                return
            self._hold(share, len(prompt))
            choice = choice.after_calls()
            self._step += 1

    def _hold(self, share: Share, tokens: int) -> None:
        self._held = tokens
        share.grow(tokens)

    async def _generate(self, engine: Engine, prompt: Prompt, spec: StepSpec) -> Step:
        self._held = len(prompt)
        await self._emit(StepStarted(self._step, len(prompt)))
        self._watch.step_began()
        self._reader = reader = StepReader(
            self._emit, self._services.clock, self._watch.first_piece
        )
        with self._trace.step(step_settings(spec)) as span:
            try:
                step = await reader.read(engine.generate(prompt, spec))
            except EngineDiedError:
                engines = self._services.engines
                if engines.state is not EngineState.FAILED and engines.running in {engine, None}:
                    # Before this turn's share goes to the next one, which would die as well.
                    self._services.admission.suspend()
                raise
            usage = _usage(prompt, step)
            trace_step_ending(span, usage, _finish(step))
        self._reader = None
        self._watch.step_ended(usage)
        self._tokens_left -= usage.output_tokens
        self._record.keep_step(prompt, step)
        self._step_ended = StepCompleted(self._step, _finish(step), usage)
        self._calls.open(reader.calls_told)
        made = {call.call_id for call in step.message.tool_calls}
        for call_id in reader.calls_told:
            if call_id not in made:
                await self._calls.end(call_id, refusals.call_not_made())
        await self._tell_step_ended()
        return step

    async def _answer(self, calls: Sequence[ToolCall], share: Share) -> None:
        """Runs the calls of a step side by side, until each has its answer."""
        self._watch.tools_began(len(calls))
        share.pause()
        async with asyncio.TaskGroup() as group:
            for call in calls:
                group.create_task(self._answer_one(call))
        self._watch.tools_ended()
        await share.resume()

    async def _answer_one(self, call: ToolCall) -> None:
        tool = self._tools.get(call.tool_name)
        if tool is None:
            ending = refusals.call_of_unknown_tool(call.tool_name, self._tools)
        else:
            ending = await self._run_tool(call, tool)
        self._record.keep_answer(call, model_text(ending))
        await self._calls.end(call.call_id, ending)

    async def _run_tool(self, call: ToolCall, tool: RegisteredTool) -> InvocationEnding:
        if not tool.declaration.effects.read_only:
            self._effects[tool.name] = None
        with self._trace.tool(call.tool_name, call.call_id) as span:
            ending = await self._services.dispatcher.run(
                call=call,
                tool=tool,
                context=InvocationContext(
                    turn_id=self.spec.turn_id,
                    conversation_id=self._context.conversation_id,
                    trace_context=TraceContext(**span.carrier),
                ),
                on_progress=lambda message, fraction: self._offer(
                    ToolCallProgress(call.call_id, message, fraction)
                ),
            )
            trace_call_ending(span, ending)
        return ending

    async def _tell_step_ended(self) -> None:
        if self._step_ended is not None:
            await self._emit(self._step_ended)
            self._step_ended = None

    async def _end(self) -> TurnEnding:
        """Ends every call that is still open, tells the ending, and returns it."""
        if self._reader is not None:  # the last step was cut while it was generated
            self._calls.open(self._reader.calls_told)
            # Of the tokens that it sampled none was counted; its prompt was computed.
            usage = TokenUsage(input_tokens=self._held if self._reader.begun else 0)
            self._watch.step_ended(usage)
            self._step_ended = StepCompleted(self._step, StepFinish.ABORTED, usage)
            self._record.keep_cut_step(self._reader.text)
        unanswered = {call.call_id: call for call in self._record.unanswered}
        for call in unanswered.values():
            self._record.keep_answer(call, model_text(self._outlived(call)))
        for call_id in self._calls.ids:
            await self._calls.end(call_id, self._outlived(unanswered.get(call_id)))
        await self._tell_step_ended()
        kept = self._kept()
        report = self._watch.report()
        completed = TurnCompleted(self._outcome, self._record.text, self._error, report)
        await self._emit(completed)
        trace_ending(self._trace, completed)
        return TurnEnding(
            completed=completed,
            begun=report.steps > 0,
            messages=kept,
            tail=self._record.tail if kept else self._context.tail,
        )

    def _kept(self) -> tuple[Message, ...]:
        """What the conversation keeps: of a turn that failed, what may have changed the world."""
        if self._outcome is not TurnOutcome.FAILED:
            return self._record.close()
        if self._error is None or not self._effects:
            return ()
        self._error = refusals.failed_after_effects(self._error, self._effects)
        return self._record.close()

    def _outlived(self, call: ToolCall | None) -> InvocationEnding:
        """The ending of a call that the turn did not live to see; None: it was never made."""
        tool = None if call is None else self._tools.get(call.tool_name)
        in_doubt = tool is not None and not tool.declaration.effects.read_only
        return refusals.call_outlived(self._error, in_doubt=in_doubt)

    def _step_tokens(self, engine: Engine, prompt: Prompt) -> int:
        room = engine.info.context_tokens_max - len(prompt)
        wanted = self.spec.generation.max_step_tokens
        return min(room, self._tokens_left, self._tokens_left if wanted is None else wanted)


def _fits(engine: Engine, prompt: Prompt) -> bool:
    return len(prompt) < engine.info.context_tokens_max


def _too_long(engine: Engine, prompt: Prompt) -> ServiceError:
    info = engine.info
    return refusals.prompt_too_long(len(prompt), info.model, info.context_tokens_max)


def _finish(step: Step) -> StepFinish:
    if step.message.tool_calls:
        return StepFinish.TOOL_CALLS
    return StepFinish.LENGTH if step.end.finish is Finish.LENGTH else StepFinish.STOP


def _usage(prompt: Prompt, step: Step) -> TokenUsage:
    end = step.end
    return TokenUsage(
        input_tokens=len(prompt),
        cached_tokens=end.cached_tokens,
        output_tokens=len(end.token_ids),
        reasoning_tokens=end.reasoning_tokens,
    )


def _tool_set(tools: Sequence[RegisteredTool]) -> str:
    """Names a set of tools: turns with the same tools grow alike."""
    digests = sorted(tool.declaration.digest for tool in tools)
    return hashlib.sha256("".join(digests).encode()).hexdigest()
