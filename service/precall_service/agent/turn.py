"""One turn: from the user's message to the model's answer, step after step.

Owns: the turn's share of the engine, its outcome, its one ending.
Never: encodes events, or runs calls (`TurnCalls` does).
Concurrency: `run` is one coroutine; `cancel` may be called at any time.

A step's prompt is the previous prompt, the tokens that the model sampled, and what the template
writes for the results. Nothing is rendered twice, so the prefix cache always hits.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Final

from precall_service.admission import Share
from precall_service.agent import refusals
from precall_service.agent.account import TurnAccount
from precall_service.agent.calls import TurnCalls
from precall_service.agent.context import TurnContext, TurnEnding, TurnServices
from precall_service.agent.draft_savings import DraftSavings
from precall_service.agent.outbox import Emit, Offer, Push
from precall_service.agent.pace import TurnPace
from precall_service.agent.report import TurnReporter
from precall_service.agent.room import within_room
from precall_service.agent.scope import TurnScope
from precall_service.agent.step import Step
from precall_service.agent.steps import TurnSteps
from precall_service.agent.traces import TurnSpans
from precall_service.agent.transcript import TurnTranscript
from precall_service.agent.turn_speculation import TurnSpeculation
from precall_service.domain.clock import Timer
from precall_service.domain.endings import UNANSWERED, model_text
from precall_service.domain.errors import ServiceError
from precall_service.domain.events import (
    DiscardReason,
    TurnCompleted,
    TurnOutcome,
    TurnQueued,
    TurnStarted,
)
from precall_service.domain.messages import Message
from precall_service.domain.turn import ToolChoice, TurnSpec
from precall_service.engine.base import Engine, EngineDiedError, Finish, Prompt
from precall_service.engine.prompt_length import PromptTooLongError
from precall_service.incidents import report_defect
from precall_service.tasks import traceless
from precall_service.tools.toolset import RegisteredTool

log = logging.getLogger(__name__)

_PROMPT_COST: Final = 2_000
"""What a prompt costs beside its text, in characters: a template takes some milliseconds."""
_TOOL_COST: Final = 1_000
"""What a tool adds to that."""


class Turn:
    """Runs once. Its events end with exactly one TurnCompleted, unless `run` is cancelled."""

    def __init__(
        self,
        *,
        spec: TurnSpec,
        context: TurnContext,
        services: TurnServices,
        emit: Emit,
        offer: Offer,
        push: Push,
    ) -> None:
        clock = services.clock
        self.spec = spec
        self._received_at = clock.now()
        self._spans = TurnSpans(services.tracer, spec, context)
        self._reporter = TurnReporter(self._received_at)
        account = TurnAccount(clock, (self._reporter, self._spans))
        account.add(DraftSavings(account.note))
        self._speculation = TurnSpeculation(
            services,
            context,
            spec,
            account,
            tell=push,
            trace_context=self._spans.prediction_context,
        )
        if self._speculation.active or services.admission.measures:
            account.add(TurnPace(services.admission, services.speculation))
        if self._speculation.active:
            account.add(self._speculation)
        self._scope = scope = TurnScope(
            spec=spec,
            context=context,
            services=services,
            transcript=TurnTranscript(context.transcript, context.tail, spec.text, context.holding),
            account=account,
            speculation=self._speculation,
            emit=emit,
            offer=offer,
        )
        self._calls = TurnCalls(scope, self._spans.call_context)
        self._steps = TurnSteps(scope, self._calls)
        self._work: asyncio.Task[None] | None = None
        self._stop: tuple[TurnOutcome, ServiceError] | None = None
        self._timer: Timer | None = None
        self._outcome = TurnOutcome.ANSWERED
        self._error: ServiceError | None = None

    def cancel(self, error: ServiceError, outcome: TurnOutcome = TurnOutcome.CANCELLED) -> None:
        """Ends the turn as soon as possible, with this outcome. Only the first call counts."""
        if self._stop is None:
            self._stop = (outcome, error)
            if self._work is not None:
                self._work.cancel()

    async def run(self) -> TurnEnding:
        """Runs the turn; sends its ending to the client, then returns it.

        On cancel (the client is gone): the generation is aborted, the handlers' runs are discarded,
        the share is given back, and no more events are sent.
        """
        with closing(self._scope.account), self._spans:
            try:
                async with asyncio.TaskGroup() as group:
                    self._work = group.create_task(
                        traceless(self._work_to_outcome), name=self._scope.who
                    )
                    if self._stop is not None:
                        self._work.cancel()
            finally:
                self._set_timer(None)
                self._speculation.close(self._why_over())
            if self._work.cancelled():
                self._fail(refusals.step_given_up())
            return await self._end()

    async def _work_to_outcome(self) -> None:
        """Runs the steps and turns every failure into the turn's outcome."""
        try:
            await self._admit_and_step()
        except ServiceError as error:
            self._fail(error)
        except EngineDiedError:
            self._fail(self._scope.services.engines.died())
        except Exception as error:  # noqa: BLE001 - a defect must still give the client its ending
            self._fail(report_defect(log, self._scope.who, error))

    def _why_over(self) -> DiscardReason:
        """Returns why predictions end that are still open when the turn's work is over."""
        work = self._work
        given_up = self._stop is not None or work is None or not work.done() or work.cancelled()
        return DiscardReason.CANCELLED if given_up else DiscardReason.TURN_ENDED

    def _fail(self, error: ServiceError) -> None:
        """Ends the turn as FAILED; if it was to end anyway, the failure came of that."""
        self._outcome, self._error = self._stop or (TurnOutcome.FAILED, error)

    def _set(self, outcome: TurnOutcome, error: ServiceError) -> None:
        self._outcome, self._error = outcome, error

    async def _admit_and_step(self) -> None:
        services, limits = self._scope.services, self.spec.limits
        engine = services.engines.engine()
        self._set_timer(services.admission.limits.wait_max_s, self._give_up_waiting)
        prompt = await self._prompt(engine, begins=True)
        tenant, tool_set = self._scope.context.tenant, _tool_set(self._scope.context.tools)
        # Results may be as long as what is generated.
        safe = within_room(engine, prompt, 2 * limits.max_turn_tokens)
        begins = prompt.tokens or 0
        expected = begins + services.growth.expected(tenant, tool_set, safe=safe)
        with services.admission.enter(tenant, expected) as share:
            try:
                await self._wait_for_admission(share)
                held = await self._step_until_done(prompt, share)
            finally:
                if share.tokens > expected:  # also of a turn that was cut, which grew so much
                    services.growth.observe(tenant, tool_set, share.tokens - begins)
        if self._outcome is TurnOutcome.ANSWERED and held <= expected:
            services.growth.observe(tenant, tool_set, held - begins)

    async def _prompt(self, engine: Engine, *, begins: bool) -> Prompt:
        """Makes the turn's first prompt, or the next one, when it is its tenant's turn.

        Raises:
            ServiceError: the prompt is refused, or too many turns wait for theirs.
        """
        transcript, context = self._scope.transcript, self._scope.context
        cost = _PROMPT_COST + _TOOL_COST * len(context.tools) + transcript.characters()
        async with self._scope.services.prompts.place(context.tenant, cost, begins=begins):
            if begins:
                prompt = await transcript.first_prompt(engine)
            else:
                prompt = await transcript.continued_prompt(engine)
        tokens, limit = prompt.tokens, engine.info.context_tokens_max
        if limit is not None and tokens is not None and tokens >= limit:
            raise PromptTooLongError(tokens, limit=limit)
        return prompt

    async def _wait_for_admission(self, share: Share) -> None:
        services = self._scope.services
        while (position := await share.queue_position()) is not None:
            # Not `emit`: a client that does not read must not delay the use of its share.
            self._scope.offer(TurnQueued(position))
        self._set_timer(self.spec.limits.max_duration_s, self._expire)
        started = TurnStarted(services.clock.now() - self._received_at)
        self._scope.account.note(started)
        await self._scope.emit(started)

    def _set_timer(
        self, delay_s: float | None, callback: Callable[[], None] = lambda: None
    ) -> None:
        """Replaces the turn's only timer; None removes it."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = (
            None if delay_s is None else self._scope.services.clock.call_later(delay_s, callback)
        )

    def _give_up_waiting(self) -> None:
        engines, limits = self._scope.services.engines, self._scope.services.admission.limits
        no_engine = engines.unavailable() if engines.running is None else None
        error = no_engine or refusals.waited_too_long(limits.wait_max_s, limits.retry_after_s)
        self.cancel(error, TurnOutcome.FAILED)

    def _expire(self) -> None:
        error = refusals.turn_timeout(self.spec.limits.max_duration_s)
        self.cancel(error, TurnOutcome.LIMIT)

    async def _step_until_done(self, prompt: Prompt, share: Share) -> int:
        """Runs steps until the turn has its outcome; returns the KV tokens that it then holds."""
        engine = self._engine()  # maybe a new one: the prompt fits any engine
        choice = self.spec.generation.tool_choice
        branches = self._scope.services.speculation.branches
        while True:
            # The share may have just been taken, for the first time or after slow tools.
            branches.make_room(engine.info.sequences_max)
            step = await self._generate(engine, prompt, choice)
            held = step.end.usage.input_tokens + step.end.usage.output_tokens
            share.grow(held)
            if (limit := self._limit_reached(engine, step)) is not None:
                self._set(TurnOutcome.LIMIT, limit)
                return held
            if (missed := _missed_call(step, choice)) is not None:
                self._set(TurnOutcome.NO_CALL, missed)
                return held
            if not step.message.tool_calls:
                return held
            share.pause()
            await self._calls.answer(step.message.tool_calls, step.unreadable)
            await share.resume()
            engine = self._engine()
            try:
                prompt = await self._prompt(engine, begins=False)
            except PromptTooLongError as refused:
                # If these results stayed, no later turn would fit either.
                self._scope.transcript.replace_answers(model_text(refusals.answer_too_long()))
                self._set(TurnOutcome.LIMIT, refused)
                return held
            share.grow(prompt.tokens or held)
            choice = choice.after(step.readable)

    def _engine(self) -> Engine:
        """Returns the running engine.

        Raises:
            ServiceError: ENGINE_UNAVAILABLE; a turn that has begun needs a new id.
        """
        engines = self._scope.services.engines
        if engines.running is None and self._steps.number:
            raise engines.died()
        return engines.engine()

    async def _generate(self, engine: Engine, prompt: Prompt, choice: ToolChoice) -> Step:
        try:
            return await self._steps.generate(engine, prompt, choice)
        except EngineDiedError:
            # Reported before the share is given to the next turn, which would fail as well.
            self._scope.services.engines.report_death(engine)
            raise

    def _limit_reached(self, engine: Engine, step: Step) -> ServiceError | None:
        """Returns the limit that ends the turn after this step; None if it may continue."""
        limits, calls = self.spec.limits, step.message.tool_calls
        cut = not calls and step.end.finish is Finish.LENGTH
        if calls and self._steps.number == limits.max_steps:
            return refusals.too_many_steps(limits.max_steps)
        if (calls or cut) and self._steps.tokens_left <= 0:
            return refusals.too_many_tokens(limits.max_turn_tokens)
        if not cut:
            return None
        generated, wanted = step.end.usage.output_tokens, self.spec.generation.max_step_tokens
        if wanted is not None and generated >= wanted:
            return refusals.step_cut(wanted)
        return refusals.context_full(engine.info.model, engine.info.context_tokens_max)

    async def _end(self) -> TurnEnding:
        """Ends the step and calls that are still open, sends the turn's ending, and returns it."""
        await self._steps.end_all()
        kept = self._kept()
        report = self._reporter.report(self._scope.services.clock.now())
        completed = TurnCompleted(self._outcome, self._scope.transcript.text, self._error, report)
        self._scope.account.note(completed)
        await self._scope.emit(completed)
        return TurnEnding(
            completed=completed,
            begun=report.steps > 0,
            messages=kept,
            tail=self._scope.transcript.tail if kept else self._scope.context.tail,
        )

    def _kept(self) -> tuple[Message, ...]:
        """Returns the messages to keep: none if the turn has no answer and no possible effects.

        If it has no answer but possible effects, its error now says not to retry it.
        """
        if self._outcome in UNANSWERED:
            if self._error is None or not self._calls.effects:
                return ()
            self._error = refusals.failed_after_effects(self._error, self._calls.effects)
        return self._scope.transcript.close()


def _missed_call(step: Step, choice: ToolChoice) -> ServiceError | None:
    """Returns why a step lacks a call that was meant or required; None if it lacks none."""
    called = {call.tool_name for call in step.message.tool_calls}
    missing = not choice.is_met_by(called)
    if step.cut_by_stop_text or (missing and step.end.stop_text):
        return refusals.call_stopped(step.end.stop_text)
    if not called and step.end.stray_call is not None:
        return refusals.call_lost(step.end.stray_call)
    return refusals.call_missing(choice) if missing else None


def _tool_set(tools: Sequence[RegisteredTool]) -> str:
    """Returns a key for a set of tools, because turns with the same tools grow alike."""
    digests = sorted(tool.declaration.digest for tool in tools)
    return hashlib.sha256("".join(digests).encode()).hexdigest()
