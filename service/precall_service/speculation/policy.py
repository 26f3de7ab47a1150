"""Decides whether a predicted call runs early: by safety first, then by limits, then by value.

The expected value of an early run, in seconds of the turn, is

    p * E[min(T, lead)] - (1 - p) * w * E[min(T, lead)]

where p is the probability of the call, T the time that its handler takes, `lead` the time until the
model makes the call, and w what a wasted second costs. An early run that is wrong is stopped once
the model has done something else, so it wastes no more than the lead.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from precall_service.domain.clock import Clock
from precall_service.domain.events import DiscardReason, Predictor
from precall_service.domain.speculation import SpeculationMode
from precall_service.domain.tools import ToolDeclaration
from precall_service.speculation.ledger import Prediction, State
from precall_service.speculation.limits import SpeculationLimits
from precall_service.speculation.places import Place
from precall_service.speculation.records import TenantRecord, ToolRecord

DRAFT_PROBABILITY_MIN: Final = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnLoad:
    """What limits early runs now.

    Attributes:
        may_run_early: Whether the tool's declaration and the operator allow it.
        running: The handlers that run early for this turn.
        allowance: How much speculation the engine's load allows, from 0 to 1.
        mode: The mode that the conversation was granted.
    """

    may_run_early: bool
    running: int
    allowance: float
    mode: SpeculationMode


class Policy:
    """Decides about the predictions of all turns."""

    def __init__(self, clock: Clock, limits: SpeculationLimits) -> None:
        self._clock = clock
        self.limits = limits

    def refusal(
        self, prediction: Prediction, tenant: TenantRecord, load: TurnLoad
    ) -> DiscardReason | None:
        """Returns why a prediction does not run early; None if it does.

        SUPERSEDED is never returned: whether a prediction replaces another one is up to the caller,
        if the reason is BUDGET.
        """
        name, predictor = prediction.key.tool_name, prediction.predictor
        tool = tenant.tool(name)
        if not load.may_run_early:
            return DiscardReason.NOT_ELIGIBLE
        if load.mode.at_most(tenant.stage(name, predictor)) is not SpeculationMode.ISSUE:
            return DiscardReason.SHADOW
        if self._clock.now() < tool.closed_until:
            return DiscardReason.BREAKER_OPEN
        certain = predictor is Predictor.EARLY_DISPATCH
        if not certain and (
            load.allowance <= 0 or tool.running >= _share(prediction.declaration, load.allowance)
        ):
            return DiscardReason.LOAD
        if not certain and self.value_s(prediction, tool) <= self.limits.margin_s:
            return DiscardReason.LOW_VALUE
        if (
            load.running >= self.limits.running_per_turn_max
            or tenant.running >= self.limits.running_per_tenant_max
            or tenant.waste_left_s <= 0
        ):
            return DiscardReason.BUDGET
        return None

    def worth_asking(
        self, predictor: Predictor, tools: Collection[str], tenant: TenantRecord
    ) -> bool:
        """Returns whether a predictor may propose something of use for one of these tools."""
        return any(tenant.stage(name, predictor) is not SpeculationMode.OFF for name in tools)

    def worth_a_branch(
        self,
        place: Place,
        tenant: TenantRecord,
        *,
        early: Collection[str],
        drafts: bool,
        cost: float,
    ) -> bool:
        """Returns whether a branch of the model should begin at a place.

        It is worth what it wins, less what it takes from the step: the time of a tool in `early`,
        which may run early, and the time to generate its calls, if `drafts` of them are verified.
        `cost` is the part of its time by which a step is slower while a branch runs beside it. The
        tools are taken together: most calls are of a few of a turn's tools, and nothing is ever
        learned of the others.
        """
        if not early and not drafts:
            return False
        overlaps_s = (tenant.tool(name).run_times.within(place.lead_s) for name in early)
        worth_s = place.win_rate * max(overlaps_s, default=0.0)
        if drafts:
            worth_s += place.draft_saves_s
        return worth_s > cost * place.takes_s or tenant.explores()

    def worth_drafting(self, prediction: Prediction, tenant: TenantRecord, *, width: float) -> bool:
        """Returns whether the engine should verify a predicted call instead of generating it.

        `width` is how much speculation the time of tokens allows, from 0 to 1. The narrower, the
        surer a draft has to be.

        A draft that is wrong costs about two steps of the engine, and one that is right saves
        nearly as many as the call has tokens, which are twenty and more. A call that is written
        already is not drafted, and neither is one whose predictions the operator wants scored only.
        """
        name, predictor = prediction.key.tool_name, prediction.predictor
        if predictor is Predictor.EARLY_DISPATCH:
            return False
        pinned = tenant.pinned_stage(name, predictor)
        if pinned not in (None, SpeculationMode.ISSUE):
            return False
        likely = max(DRAFT_PROBABILITY_MIN, 1.0 - width)
        return self.probability(prediction, tenant.tool(name)) >= likely

    def value_s(self, prediction: Prediction, tool: ToolRecord) -> float:
        """Returns the expected value of running a prediction early, in seconds."""
        probability = self.probability(prediction, tool)
        lead_s = tool.of(prediction.predictor).leads_at(prediction.depth).typical_s
        overlap_s = tool.run_times.within(lead_s)
        return probability * overlap_s - (1 - probability) * self.limits.waste_weight * overlap_s

    def probability(self, prediction: Prediction, tool: ToolRecord) -> float:
        """Returns the probability that the model makes the predicted call.

        A call that follows predictions also needs all those to come true that are still open.
        """
        probability = tool.of(prediction.predictor).acceptance.probability(prediction.confidence)
        parent = prediction.parent
        while parent is not None and parent.state is not State.CONFIRMED:
            probability *= parent.confidence
            parent = parent.parent
        return probability

    # What came of predictions.

    def learn(
        self,
        prediction: Prediction,
        tenant: TenantRecord,
        *,
        matched: bool,
        lead_s: float,
        run_time_s: float | None,
        saved_s: float = 0.0,
    ) -> None:
        """Learns from a prediction of which the model has shown whether it was right.

        `lead_s` is the time from the proposal to the end of the model's message, and `run_time_s`
        how long the handler of the matched call took, if it is known.
        """
        tool = tenant.tool(prediction.key.tool_name)
        record = tool.of(prediction.predictor)
        record.resolved += 1
        record.matched += matched
        record.acceptance.observe(prediction.confidence, matched=matched)
        record.leads_at(prediction.depth).observe(lead_s)
        if prediction.launched_at is not None:
            wasted_s = 0.0 if matched else prediction.handler_s(self._clock.now())
            record.saved_s += saved_s
        elif prediction.result_json is not None:
            return  # the cache had its result: a run would have saved and wasted nothing
        else:
            overlap_s = (
                tool.run_times.within(lead_s) if run_time_s is None else min(run_time_s, lead_s)
            )
            saved_s, wasted_s = (overlap_s, 0.0) if matched else (0.0, overlap_s)
            record.would_save_s += saved_s
            record.would_waste_s += wasted_s
            if prediction.skipped is not DiscardReason.SHADOW:
                return  # it says nothing about those that do run
        record.stage.judge(saved_s, wasted_s, weight=self.limits.waste_weight, matched=matched)

    def count_draft(
        self,
        prediction: Prediction,
        tool: ToolRecord,
        *,
        proposed: int,
        accepted: int,
        saved_s: float,
    ) -> None:
        """Counts the tokens of a predicted call that the engine has verified."""
        prediction.drafted += proposed
        prediction.accepted += accepted
        prediction.saved_by_draft_s = max(0.0, prediction.saved_by_draft_s + saved_s)
        record = tool.of(prediction.predictor)
        record.draft_tokens_proposed += proposed
        record.draft_tokens_accepted += accepted
        record.saved_by_drafts_s = max(0.0, record.saved_by_drafts_s + saved_s)

    def count_waste(self, prediction: Prediction, tenant: TenantRecord) -> None:
        """Counts the time that the handler of a discarded prediction took."""
        wasted_s = prediction.handler_s(self._clock.now())
        tenant.tool(prediction.key.tool_name).of(prediction.predictor).wasted_s += wasted_s
        tenant.waste(wasted_s)

    def count_run(self, tool: ToolRecord, *, failed: bool) -> None:
        """Counts the ending of an early run. Failures in succession open the tool's breaker."""
        tool.failures = tool.failures + 1 if failed else 0
        if tool.failures >= self.limits.breaker_failures:
            tool.failures = 0
            tool.closed_until = self._clock.now() + self.limits.breaker_s


def _share(tool: ToolDeclaration, allowance: float) -> int:
    """Returns how many handlers of a tool may run early: without load, half of its slots."""
    return max(1, int(tool.max_concurrency * allowance / 2))
