"""Follows one turn, has its calls predicted, and resolves the predictions.

    the turn's account ─▶ moments ─▶ predictors ─▶ policy ─▶ early runs ─▶ claims

It observes the turn's account, so the turn itself does not know of it, except where a call claims
an early run, and where the turn ends.

Owns: the turn's ledger, and what becomes of a prediction once the model has shown what it does.
Never: asks predictors (`Proposals` does), or runs handlers (`EarlyRuns` does).
Concurrency: one event loop. All methods but `claim` are synchronous.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

from precall_service.agent.account import (
    DraftsSaved,
    Happening,
    Sampled,
    StepBegan,
    TurnAccount,
)
from precall_service.agent.context import TurnContext, TurnServices
from precall_service.agent.early_run import EarlyRun
from precall_service.agent.early_runs import EarlyRuns
from precall_service.agent.outbox import Push
from precall_service.agent.proposals import Proposals
from precall_service.agent.situations import Situations
from precall_service.agent.step_drafts import StepDrafts
from precall_service.cache.base import Lookup
from precall_service.domain.errors import ServiceError
from precall_service.domain.events import (
    DiscardReason,
    ReasoningDelta,
    ResultSource,
    StepCompleted,
    StepFinishReason,
    ToolCallCompleted,
    ToolCallReady,
    TraceContext,
)
from precall_service.domain.json import JsonError, canonical
from precall_service.domain.messages import ToolCall
from precall_service.domain.speculation import SpeculationMode
from precall_service.domain.turn import TurnSpec
from precall_service.incidents import report_defect
from precall_service.speculation.base import Moment
from precall_service.speculation.ledger import (
    CallKey,
    Ledger,
    Prediction,
    PredictionEvent,
    State,
)
from precall_service.tools.toolset import RegisteredTool

log = logging.getLogger(__name__)


class TurnSpeculation:
    """The predictions of one turn."""

    def __init__(
        self,
        services: TurnServices,
        context: TurnContext,
        spec: TurnSpec,
        account: TurnAccount,
        *,
        tell: Push,
        trace_context: Callable[[str], TraceContext],
    ) -> None:
        self._services = services
        self._shared = services.speculation
        self._context = context
        self._granted = context.speculation
        self._clock = services.clock
        self._tell = tell if self._granted.send_events else None
        self._ledger = Ledger(services.clock, partial(_note, account, self._tell))
        self._runs = EarlyRuns(services, context, spec.turn_id, self._ledger, trace_context)
        self._record = self._shared.records.of(context.tenant)
        self._tools = {tool.name: tool for tool in context.tools}
        self._situations = Situations(context, spec, services)
        self._drafts = StepDrafts(services, context)
        self._proposals = Proposals(
            services, context, self._ledger, self._runs, self._situations, drafts=self._drafts
        )
        self._step_ended_at = 0.0
        self._calls: dict[str, tuple[CallKey | None, str]] = {}
        """The calls of the current step by id: their keys, and the names of their tools."""
        self._claimed: dict[str, Prediction] = {}
        self._run_times: dict[str, float] = {}
        """How long the handlers of calls took, by the ids of the calls."""
        self._closed = False

    @property
    def active(self) -> bool:
        """Whether calls are predicted: only if a tool may run early, or its calls be drafted."""
        return self._granted.mode is not SpeculationMode.OFF and self._proposals.possible

    # What happens in the turn.

    def observe(self, at: float, happening: Happening) -> None:
        """See `TurnObserver`."""
        if type(happening) is Sampled:  # the hot path: tested first, without `match`
            self._sampled(happening)
            return
        match happening:
            case StepBegan():
                self._begin_step(happening)
            case DraftsSaved():
                self._drafts.verify(happening)
            case StepCompleted(_, finish):
                self._step_ended_at = at
                self._end_step(finish)
            case ToolCallCompleted():
                self._complete_call(happening)
            case _:
                pass

    def close(self, reason: DiscardReason) -> None:
        """Ends every prediction, because the turn ends. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._proposals.close()
        for prediction in self._ledger.open():
            self._discard(prediction, reason)
        self._teach()

    def _begin_step(self, began: StepBegan) -> None:
        self._teach()
        self._calls.clear()
        self._claimed.clear()
        self._run_times.clear()
        self._situations.begin_step(began)
        self._drafts.begin_step(began, self._ledger.open())
        self._proposals.ask(Moment.STEP_BEGAN)

    def _sampled(self, sampled: Sampled) -> None:
        situations = self._situations
        situations.token_ids += sampled.token_ids
        for piece in sampled.pieces:
            if type(piece) is ReasoningDelta:
                if situations.reasoned():
                    self._proposals.ask(Moment.REASONED)
            elif type(piece) is ToolCallReady:
                self._calls[piece.call_id] = self._key(piece), piece.tool_name
                if situations.wrote(piece):
                    self._proposals.ask(Moment.CALL_WRITTEN)

    def _end_step(self, finish: StepFinishReason) -> None:
        """Resolves the predictions of the step, now that the model has shown what it does."""
        self._proposals.stop()
        self._drafts.end_step()
        calls = finish is StepFinishReason.TOOL_CALLS
        self._situations.end_step(finish)
        made = {key for key, _ in self._calls.values()} if calls else set[CallKey | None]()
        reason = DiscardReason.MISMATCH if calls else DiscardReason.TURN_ENDED
        if not calls and finish is not StepFinishReason.STOP:
            return  # it was cut, so that nothing can be learned: `close` follows
        for prediction in self._ledger.open():
            if prediction.step <= self._situations.step and prediction.key not in made:
                self._learn(prediction, matched=False)
                self._discard(prediction, reason)
        for prediction in self._ledger.open():
            if not _follows(prediction, self._situations.step, made):
                self._discard(prediction, reason)

    def _complete_call(self, completed: ToolCallCompleted) -> None:
        """Resolves the predictions of a call, now that it has been answered."""
        key, name = self._calls.get(completed.call_id, (None, ""))
        self._situations.answered(completed.call_id, completed.result_json)
        if not name:
            return
        tool = self._record.tool(name)
        run_time_s = self._run_times.get(completed.call_id)
        if completed.source is ResultSource.COMMITTED and run_time_s is not None:
            tool.run_times.observe(run_time_s)
        confirmed = self._claimed.get(completed.call_id)
        if confirmed is not None:
            self._learn(confirmed, matched=True, saved_s=completed.time_saved_s or 0.0)
        for prediction in () if key is None else self._ledger.same(key, self._situations.step):
            self._learn(prediction, matched=True, run_time_s=run_time_s)
            cached = self._runs.from_cache(prediction)
            if cached and completed.source is ResultSource.CACHE:
                self._ledger.confirm(prediction, completed.call_id)
                confirmed = prediction
            else:
                reason = DiscardReason.STALE_RESOURCE if cached else DiscardReason.DUPLICATE
                self._discard(prediction, reason, call_id=completed.call_id)
        if confirmed is not None:
            tool.of(confirmed.predictor).confirmed += 1
        tool.count_call(confirmed=confirmed is not None)

    def _discard(self, prediction: Prediction, reason: DiscardReason, *, call_id: str = "") -> None:
        """Ends a prediction. If nothing ran early for it, the reason is why nothing did."""
        if prediction.state is State.SKIPPED:
            reason = prediction.skipped
        self._runs.discard(prediction, reason, call_id=call_id)

    # The calls that claim early runs.

    async def claim(self, tool: RegisteredTool, call: ToolCall) -> EarlyRun | None:
        """Returns the early run of a call that cannot be cached, now committed to it, or None.

        On cancel: nothing is claimed.
        """
        for prediction in self._candidates(call):
            lookup = await self._runs.look_up(prediction)
            if self._runs.has(prediction) and (
                early := self._claim(prediction, tool, call, lookup)
            ):
                return early
        return None

    def claim_after(
        self, tool: RegisteredTool, call: ToolCall, lookup: Lookup | None
    ) -> EarlyRun | None:
        """Returns the same as `claim` for a call that the cache was asked for just now."""
        for prediction in self._candidates(call):
            if early := self._claim(prediction, tool, call, lookup):
                return early
        return None

    def ran(self, call_id: str, seconds: float | None) -> None:
        """Notes how long the handler took that was started for a call; None if it is not known."""
        if seconds is not None and call_id in self._calls:
            self._run_times[call_id] = seconds

    def _candidates(self, call: ToolCall) -> list[Prediction]:
        key, _ = self._calls.get(call.call_id, (None, ""))
        if key is None:
            return []
        same = self._ledger.same(key, self._situations.step)
        return [each for each in same if each.usable and self._runs.has(each)]

    def _claim(
        self,
        prediction: Prediction,
        tool: RegisteredTool,
        call: ToolCall,
        lookup: Lookup | None,
    ) -> EarlyRun | None:
        early = self._runs.claim(prediction, tool, call.call_id, lookup)
        if early is None:
            self._learn(prediction, matched=True)
        else:
            self._claimed[call.call_id] = prediction
        return early

    # Small parts.

    def _key(self, call: ToolCallReady) -> CallKey | None:
        """Returns what a prediction of this call must be equal to; None if there can be none."""
        tool = self._tools.get(call.tool_name)
        try:
            current = None if tool is None else self._services.dispatcher.current(tool)
            if current is None:
                return None
            arguments = self._situations.arguments_of(call)
            text = canonical(arguments).decode()
        except (ServiceError, JsonError):
            return None
        return CallKey(current.name, current.declaration.version, text)

    def _learn(
        self,
        prediction: Prediction,
        *,
        matched: bool,
        run_time_s: float | None = None,
        saved_s: float = 0.0,
    ) -> None:
        lead_s = self._step_ended_at - prediction.proposed_at
        self._proposals.learn(prediction, matched=matched, lead_s=lead_s)
        self._shared.policy.learn(
            prediction,
            self._record,
            matched=matched,
            lead_s=lead_s,
            run_time_s=run_time_s,
            saved_s=saved_s,
        )

    def _teach(self) -> None:
        """Lets predictors learn from the last step: from its calls, or from the end of the turn."""
        lesson = self._situations.lesson()
        if lesson is None:
            return
        for learner in self._shared.learners:
            try:
                learner.learn(lesson)
            except Exception as defect:  # noqa: BLE001 - a predictor must not hurt the turn
                report_defect(log, "a predictor that learns", defect)


def _note(account: TurnAccount, tell: Push | None, event: PredictionEvent) -> None:
    """Notes what happens to a prediction, and tells the client if it wants to know."""
    account.note(event)
    if tell is not None:
        tell(event)


def _follows(prediction: Prediction, step: int, made: set[CallKey | None]) -> bool:
    """Returns whether a prediction follows calls of this step that were made.

    Whether the result of an earlier prediction was used does not matter: the call was made.
    """
    parent = prediction.parent
    while parent is not None:
        if parent.step == step:
            return parent.key in made
        parent = parent.parent
    return True
