"""Asks the predictors of one turn, and turns their proposals into predictions.

Owns: the tasks of predictors that work for the turn.
Never: resolves predictions (`TurnSpeculation` does), or judges their value (`Policy` does).
Concurrency: one event loop. Whatever a predictor does, the turn never waits for it.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing
from typing import Final

from precall_service.agent.context import TurnContext, TurnServices
from precall_service.agent.early_runs import EarlyRuns
from precall_service.agent.situations import Situations
from precall_service.agent.step_drafts import StepDrafts
from precall_service.domain.errors import ServiceError
from precall_service.domain.events import DiscardReason
from precall_service.domain.events import Predictor as PredictorName
from precall_service.domain.json import JsonError, canonical
from precall_service.domain.speculation import SpeculationMode
from precall_service.incidents import report_defect
from precall_service.speculation.base import Moment, Predictor, Proposal, Situation
from precall_service.speculation.ledger import CallKey, Ledger, Prediction, State
from precall_service.speculation.policy import TurnLoad
from precall_service.tools.toolset import RegisteredTool

log = logging.getLogger(__name__)

PROPOSALS_MAX: Final = 8
"""The proposals of one predictor at one moment."""
TASKS_MAX: Final = 3
"""The moments for which one predictor works at the same time."""

_BRANCHED: Final = (Moment.STEP_BEGAN, Moment.REASONED)


class Proposals:
    """The proposals of the predictors, and what becomes of them."""

    def __init__(
        self,
        services: TurnServices,
        context: TurnContext,
        ledger: Ledger,
        runs: EarlyRuns,
        situations: Situations,
        *,
        drafts: StepDrafts,
    ) -> None:
        self._services = services
        self._shared = services.speculation
        self._granted = context.speculation
        self._record = services.speculation.records.of(context.tenant)
        self._ledger = ledger
        self._runs = runs
        self._situations = situations
        self._drafts = drafts
        self._tools = {tool.name: tool for tool in context.tools}
        self._early = situations.early
        self._won: set[int] = set()
        """The places in the current step whose branches have won."""
        self._predictors = [
            each for each in self._shared.predictors if each.name in self._granted.predictors
        ]
        self._tasks: dict[asyncio.Task[None], Predictor] = {}
        self._closed = False

    @property
    def possible(self) -> bool:
        """Whether predictions are of any use: to run a tool early, or to draft its calls."""
        return bool(self._early) or self._may_draft

    @property
    def _may_draft(self) -> bool:
        return bool(self._tools) and self._drafts.possible

    @property
    def _full(self) -> bool:
        """Whether the turn takes no more predictions."""
        return self._closed or (
            self._ledger.proposed >= self._shared.limits.predictions_per_turn_max
        )

    def ask(self, moment: Moment, after: Prediction | None = None) -> None:
        """Asks the predictors that want to be asked at this moment. They work in tasks."""
        if self._full:
            return
        if moment is Moment.STEP_BEGAN:
            self._won.clear()
        may_branch = moment in _BRANCHED and self._may_branch()
        for predictor in self._predictors:
            if self._wants(predictor, moment):
                confidence = self._confidence(predictor.name)
                situation = self._situations.now(
                    moment,
                    after,
                    confidence,
                    may_branch=may_branch,
                    may_sample=moment is Moment.STEP_BEGAN,
                )
                task = self._shared.spawn(self._consult(predictor, situation, after))
                self._tasks[task] = predictor
                task.add_done_callback(self._tasks.pop)

    def _wants(self, predictor: Predictor, moment: Moment) -> bool:
        if moment not in predictor.moments:
            return False
        at_work = sum(each is predictor for each in self._tasks.values())
        if moment is Moment.REASONED and at_work >= TASKS_MAX:
            return False
        # A call that is written can run early, but need not be drafted.
        written = predictor.name is PredictorName.EARLY_DISPATCH
        drafted = self._drafts.possible and not written
        tools = self._tools.keys() if drafted else self._early
        return self._shared.policy.worth_asking(predictor.name, tools, self._record)

    def _may_branch(self) -> bool:
        """Whether a branch that began now would be worth it."""
        return self._shared.policy.worth_a_branch(
            self._situations.place,
            self._record,
            early=self._early,
            drafts=self._may_draft,
            cost=self._shared.load.branch_cost,
        )

    def learn(self, prediction: Prediction, *, matched: bool, lead_s: float) -> None:
        """Learns what the branch was worth that proposed a prediction."""
        if prediction.predictor is not PredictorName.FORK:
            return
        places = self._record.branches(self._situations.branched, first_step=prediction.step == 0)
        place = places.at(prediction.reasoned)
        place.propose(prediction.proposed_at - prediction.asked_at, lead_s)
        place.save(prediction.saved_by_draft_s)
        if matched and prediction.reasoned not in self._won:
            self._won.add(prediction.reasoned)
            place.win()

    def stop(self) -> None:
        """Ends the work of predictors, because the step that they predict is over."""
        for task in tuple(self._tasks):
            task.cancel()

    def close(self) -> None:
        """Ends the work of predictors, and asks none of them again. Idempotent."""
        self._closed = True
        self.stop()

    async def _consult(
        self, predictor: Predictor, situation: Situation, after: Prediction | None
    ) -> None:
        count, asked_at = 0, self._services.clock.now()
        try:
            async with aclosing(predictor.propose(situation)) as proposals:
                async for proposal in proposals:
                    count += 1
                    if self._full or count > PROPOSALS_MAX:
                        return
                    self._take(predictor.name, proposal, situation, after, asked_at)
        except Exception as defect:  # noqa: BLE001 - a predictor must not hurt the turn
            report_defect(log, f"the predictor {predictor.name.name.lower()}", defect)
            if predictor in self._predictors:
                self._predictors.remove(predictor)

    def _take(
        self,
        name: PredictorName,
        proposal: Proposal,
        situation: Situation,
        after: Prediction | None,
        asked_at: float,
    ) -> None:
        """Makes a proposal a prediction, and runs its handler if the policy allows.

        Proposals that are no valid call of an offered tool are ignored.
        """
        offered = self._tools.get(proposal.tool_name)
        if offered is None or self._record.stage(offered.name, name) is SpeculationMode.OFF:
            return
        try:
            tool = self._services.dispatcher.current(offered)
            arguments = self._services.dispatcher.check_arguments_at_once(
                tool, proposal.arguments_json
            )
            text = canonical(arguments).decode()
        except (ServiceError, JsonError):
            return
        prediction = Prediction(
            key=CallKey(tool.name, tool.declaration.version, text),
            declaration=tool.declaration,
            arguments=arguments,
            predictor=name,
            confidence=min(1.0, max(0.0, proposal.confidence)),
            depth=situation.depth,
            step=situation.step,
            parent=after,
            reasoned=situation.reasoning_tokens,
            asked_at=asked_at,
            proposed_at=self._services.clock.now(),
        )
        others = list(self._ledger.same(prediction.key, prediction.step))
        if any(each.predictor is name for each in others):
            return  # it has said so before
        self._ledger.propose(prediction)
        self._record.tool(tool.name).of(name).proposed += 1
        self._drafts.predict(prediction)
        reason = (
            DiscardReason.DUPLICATE
            if any(self._runs.serves(each) for each in others)
            else self._refusal(prediction, tool)
        )
        if reason is None:
            self._runs.reserve(prediction)
            self._shared.spawn(self._execute(prediction, tool))
        else:
            self._ledger.skip(prediction, reason)

    def _refusal(self, prediction: Prediction, tool: RegisteredTool) -> DiscardReason | None:
        """Returns why a prediction does not run early. A better one takes the place of another."""
        load = TurnLoad(
            may_run_early=self._services.dispatcher.limits.may_run_early(tool.declaration),
            running=self._runs.running,
            allowance=self._shared.load.allowance(),
            mode=self._granted.mode,
        )
        reason = self._shared.policy.refusal(prediction, self._record, load)
        if reason is DiscardReason.BUDGET and self._make_place(prediction):
            return None
        return reason

    def _make_place(self, prediction: Prediction) -> bool:
        """Discards the least probable early run if this prediction is more probable."""

        def probability(each: Prediction) -> float:
            tool = self._record.tool(each.key.tool_name)
            return self._shared.policy.probability(each, tool)

        running = self._runs.running_predictions()
        turn_is_full = self._runs.running >= self._shared.limits.running_per_turn_max
        if not running or not turn_is_full or self._record.waste_left_s <= 0:
            return False  # it is the tenant that has used up a budget
        worst = min(running, key=probability)
        if probability(worst) >= probability(prediction):
            return False
        self._runs.discard(worst, DiscardReason.SUPERSEDED)
        return True

    async def _execute(self, prediction: Prediction, tool: RegisteredTool) -> None:
        await self._runs.execute(prediction, tool)
        if prediction.state is State.READY and prediction.depth < self._granted.max_depth:
            self.ask(Moment.RESULT_READY, prediction)

    def _confidence(self, name: PredictorName) -> float:
        """Returns the highest confidence of a predictor's proposals for the current step."""
        step = self._situations.step
        open_ones = self._ledger.open()
        return max(
            (each.confidence for each in open_ones if each.predictor is name and each.step == step),
            default=0.0,
        )
