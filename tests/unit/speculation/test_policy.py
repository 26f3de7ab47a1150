"""What runs early: safety first, then limits, then value; and what is learned from the outcome."""

from __future__ import annotations

from dataclasses import replace

import pytest

from precall_service.domain.events import DiscardReason, Predictor
from precall_service.domain.speculation import SpeculationMode
from precall_service.speculation.ledger import Prediction, State
from precall_service.speculation.limits import SpeculationLimits
from precall_service.speculation.policy import Policy, TurnLoad
from precall_service.speculation.records import EXPLORED_EVERY, TenantRecord, ToolRecord
from tests.support.clock import ManualClock
from tests.support.speculating import WEATHER, predicted

CALM = TurnLoad(may_run_early=True, running=0, allowance=1.0, mode=SpeculationMode.ISSUE)
FORK, EARLY = Predictor.FORK, Predictor.EARLY_DISPATCH


class Desk:
    """A policy, and the record of a tenant whose handlers take 2 s and whose leads are 4 s."""

    def __init__(self, **limits: float) -> None:
        self.clock = ManualClock()
        self.policy = Policy(self.clock, SpeculationLimits(**limits))  # pyright: ignore[reportArgumentType]
        self.tenant = TenantRecord(self.clock, self.policy.limits)
        self.tool.run_times.observe(2.0)
        for each in (FORK, EARLY):
            self.tool.of(each).leads.observe(4.0)
            self.tool.of(each).far_leads.observe(1.0)

    @property
    def tool(self) -> ToolRecord:
        return self.tenant.tool("weather")

    def refusal(
        self, prediction: Prediction | None = None, load: TurnLoad = CALM
    ) -> DiscardReason | None:
        return self.policy.refusal(prediction or predicted(), self.tenant, load)

    def learn(
        self,
        prediction: Prediction,
        *,
        matched: bool,
        lead_s: float = 4.0,
        run_time_s: float | None = None,
        saved_s: float = 0.0,
    ) -> None:
        self.policy.learn(
            prediction,
            self.tenant,
            matched=matched,
            lead_s=lead_s,
            run_time_s=run_time_s,
            saved_s=saved_s,
        )


def worth_a_branch(desk: Desk, *tools: str, drafts: bool = False, cost: float = 0.05) -> bool:
    names = frozenset(tools)
    place = desk.tenant.branches(names, first_step=True).at(0)
    return desk.policy.worth_a_branch(place, desk.tenant, early=names, drafts=drafts, cost=cost)


def hindered() -> tuple[Desk, Prediction, TurnLoad]:
    """Everything that can speak against a prediction, at once."""
    desk = Desk(breaker_failures=1)
    desk.policy.count_run(desk.tool, failed=True)
    desk.tool.of(FORK).stage.mode = SpeculationMode.SHADOW
    desk.tenant.waste(1000.0)
    load = TurnLoad(may_run_early=False, running=99, allowance=0.0, mode=SpeculationMode.SHADOW)
    return desk, predicted(confidence=0.0), load


def test_what_speaks_against_a_prediction_is_told_in_order() -> None:
    desk, prediction, load = hindered()
    assert desk.refusal(prediction, load) is DiscardReason.NOT_ELIGIBLE
    load = replace(load, may_run_early=True)
    assert desk.refusal(prediction, load) is DiscardReason.SHADOW
    load = replace(load, mode=SpeculationMode.ISSUE)
    assert desk.refusal(prediction, load) is DiscardReason.SHADOW, "the predictor's own stage"
    desk.tool.of(FORK).stage.mode = SpeculationMode.ISSUE
    assert desk.refusal(prediction, load) is DiscardReason.BREAKER_OPEN
    desk.clock.advance(30.0)
    assert desk.refusal(prediction, load) is DiscardReason.LOAD
    load = replace(load, allowance=1.0)
    assert desk.refusal(prediction, load) is DiscardReason.LOW_VALUE
    prediction = predicted()
    assert desk.refusal(prediction, load) is DiscardReason.BUDGET
    load = replace(load, running=0)
    assert desk.refusal(prediction, load) is DiscardReason.BUDGET, "too much was wasted"
    desk.clock.advance(3600.0)
    assert desk.refusal(prediction, load) is None


def test_a_conversation_in_shadow_runs_nothing() -> None:
    for mode in (SpeculationMode.OFF, SpeculationMode.SHADOW):
        for predictor in (FORK, EARLY):
            prediction = predicted(predictor=predictor, confidence=1.0)
            assert Desk().refusal(prediction, replace(CALM, mode=mode)) is DiscardReason.SHADOW


@pytest.mark.parametrize("mode", [SpeculationMode.OFF, SpeculationMode.SHADOW])
def test_a_pinned_stage_runs_nothing(mode: SpeculationMode) -> None:
    desk = Desk()
    desk.tenant = TenantRecord(desk.clock, SpeculationLimits(stages={("weather", FORK): mode}))
    assert desk.refusal() is DiscardReason.SHADOW


@pytest.mark.parametrize(
    ("slots", "allowance", "running"),
    [(1, 1.0, 1), (4, 1.0, 2), (16, 1.0, 8), (16, 0.5, 4), (16, 0.01, 1), (5, 1.0, 2)],
)
def test_early_runs_take_at_most_half_of_a_tool(slots: int, allowance: float, running: int) -> None:
    desk = Desk()
    prediction = predicted(tool=replace(WEATHER, max_concurrency=slots))
    load = replace(CALM, allowance=allowance)
    desk.tool.running = running - 1
    assert desk.refusal(prediction, load) is None
    desk.tool.running = running
    assert desk.refusal(prediction, load) is DiscardReason.LOAD


def test_a_written_call_is_not_refused_for_load_or_value() -> None:
    desk = Desk(margin_s=1e6)
    desk.tool.running = 99
    load = replace(CALM, allowance=0.0)
    written = predicted(predictor=EARLY, confidence=1.0)
    assert desk.refusal(written, load) is None
    assert desk.refusal(predicted(confidence=1.0), load) is DiscardReason.LOAD


def test_a_written_call_is_refused_for_all_else() -> None:
    written = predicted(predictor=EARLY, confidence=1.0)
    desk = Desk(breaker_failures=1)
    assert desk.refusal(written, replace(CALM, may_run_early=False)) is DiscardReason.NOT_ELIGIBLE
    assert desk.refusal(written, replace(CALM, running=4)) is DiscardReason.BUDGET
    desk.tenant.running = 32
    assert desk.refusal(written) is DiscardReason.BUDGET
    desk.tenant.running = 0
    desk.tenant.waste(60.0)
    assert desk.refusal(written) is DiscardReason.BUDGET
    desk.policy.count_run(desk.tool, failed=True)
    assert desk.refusal(written) is DiscardReason.BREAKER_OPEN


# The value, by hand.


def test_the_value_of_an_early_run() -> None:
    desk = Desk()
    # It overlaps by min(2 s, 4 s) = 2 s. Half of that is gained, half of it wasted at a fifth.
    assert desk.policy.value_s(predicted(confidence=0.5), desk.tool) == pytest.approx(1.0 - 0.2)
    assert desk.policy.value_s(predicted(confidence=1.0), desk.tool) == pytest.approx(2.0)
    assert desk.policy.value_s(predicted(confidence=0.0), desk.tool) == pytest.approx(-0.4)


def test_a_short_lead_bounds_the_value() -> None:
    desk = Desk()
    for _ in range(3):
        desk.tool.of(FORK).leads.observe(0.5)
    assert desk.policy.value_s(predicted(confidence=1.0), desk.tool) == pytest.approx(0.5)


def test_the_value_of_something_unknown() -> None:
    desk = Desk()
    tool = desk.tenant.tool("unknown")  # both the time and the lead are taken for 1 s
    assert desk.policy.value_s(predicted(confidence=0.5), tool) == pytest.approx(0.5 - 0.1)


def test_a_call_after_a_prediction_needs_that_prediction_as_well() -> None:
    desk = Desk()
    parent = predicted(confidence=0.5)
    child = predicted(city="Oslo", confidence=0.8, parent=parent)
    assert desk.policy.probability(child, desk.tool) == pytest.approx(0.4)
    # Calls further ahead have leads of their own, here of 1 s.
    assert desk.policy.value_s(child, desk.tool) == pytest.approx(0.4 - 0.6 * 0.2)


def test_a_prediction_needs_all_those_that_lead_to_it() -> None:
    desk = Desk()
    first = predicted(confidence=0.5)
    second = predicted(city="Oslo", confidence=0.5, parent=first)
    third = predicted(city="Bonn", confidence=0.8, parent=second)
    assert desk.policy.probability(third, desk.tool) == pytest.approx(0.2)


def test_a_prediction_that_came_true_is_certain() -> None:
    desk = Desk()
    parent = predicted(confidence=0.5)
    parent.state = State.CONFIRMED
    child = predicted(city="Oslo", confidence=0.8, parent=parent)
    assert desk.policy.probability(child, desk.tool) == pytest.approx(0.8)


def test_the_margin_must_be_exceeded() -> None:
    # The value of a certain call of 2 s is 2 s.
    assert Desk(margin_s=2.0).refusal(predicted(confidence=1.0)) is DiscardReason.LOW_VALUE
    assert Desk(margin_s=1.9).refusal(predicted(confidence=1.0)) is None


def test_without_the_weight_of_waste_all_are_of_value() -> None:
    assert Desk(waste_weight=0.0).refusal(predicted(confidence=0.1)) is None
    assert Desk(waste_weight=10.0).refusal(predicted(confidence=0.8)) is DiscardReason.LOW_VALUE


# The breaker.


def test_failures_in_succession_open_the_breaker_for_some_time() -> None:
    desk = Desk(breaker_failures=3, breaker_s=30.0)
    for failed in (True, True, False, True, True):
        desk.policy.count_run(desk.tool, failed=failed)
        assert desk.refusal() is None
    desk.policy.count_run(desk.tool, failed=True)
    assert desk.refusal() is DiscardReason.BREAKER_OPEN
    desk.clock.advance(29.9)
    assert desk.refusal() is DiscardReason.BREAKER_OPEN
    desk.clock.advance(0.1)
    assert desk.refusal() is None
    for _ in range(2):
        desk.policy.count_run(desk.tool, failed=True)
        assert desk.refusal() is None, "the count begins anew"


def test_the_breaker_of_a_tool_is_of_this_tenant_and_tool() -> None:
    desk = Desk(breaker_failures=1)
    desk.policy.count_run(desk.tool, failed=True)
    other = replace(WEATHER, name="time")
    assert desk.refusal(predicted(tool=other)) is None
    bob = TenantRecord(desk.clock, desk.policy.limits)
    assert desk.policy.refusal(predicted(), bob, CALM) is None


# What is learned.


def test_a_run_that_answered_its_call_has_saved() -> None:
    desk = Desk()
    prediction = predicted()
    prediction.launched_at, prediction.over_at = 1000.0, 1002.0
    desk.learn(prediction, matched=True, lead_s=3.0, saved_s=2.0)
    record = desk.tool.of(FORK)
    assert (record.resolved, record.matched) == (1, 1)
    assert (record.saved_s, record.would_save_s, record.would_waste_s) == (2.0, 0.0, 0.0)


def test_leads_are_learned_by_how_far_ahead_a_prediction_is() -> None:
    desk = Desk()
    for _ in range(64):
        desk.learn(predicted(), matched=True, lead_s=9.0)
        desk.learn(predicted(city="Oslo", parent=predicted()), matched=True, lead_s=8.0)
    record = desk.tool.of(FORK)
    assert (record.leads.typical_s, record.far_leads.typical_s) == (9.0, 8.0)


def test_a_prediction_in_shadow_would_have_saved_or_wasted_the_overlap() -> None:
    desk = Desk()
    record = desk.tool.of(FORK)
    for matched, lead_s, run_time_s in ((True, 3.0, 5.0), (True, 3.0, 1.0), (False, 0.5, None)):
        prediction = predicted()
        prediction.skipped = DiscardReason.SHADOW
        desk.learn(prediction, matched=matched, lead_s=lead_s, run_time_s=run_time_s)
    assert record.would_save_s == 3 + 1
    assert record.would_waste_s == 0.5
    assert (record.resolved, record.matched, record.saved_s) == (3, 2, 0.0)


@pytest.mark.parametrize("matched", [True, False])
def test_a_result_from_the_cache_would_have_saved_and_wasted_nothing(matched: bool) -> None:
    desk = Desk()
    prediction = predicted()
    prediction.result_json = "1"
    desk.learn(prediction, matched=matched)
    record = desk.tool.of(FORK)
    assert (record.resolved, record.matched) == (1, matched)
    assert (record.saved_s, record.would_save_s, record.would_waste_s) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("reason", [DiscardReason.LOAD, DiscardReason.DUPLICATE])
def test_what_was_skipped_for_other_reasons_moves_no_stage(reason: DiscardReason) -> None:
    desk = Desk()
    for _ in range(100):
        prediction = predicted()
        prediction.skipped = reason
        desk.learn(prediction, matched=False)
    assert desk.tool.of(FORK).stage.mode is SpeculationMode.ISSUE
    assert desk.policy.probability(predicted(), desk.tool) < 0.2, "but it is known to be wrong"


def test_wrong_predictions_end_in_shadow_and_then_off() -> None:
    desk = Desk()
    record = desk.tool.of(FORK)
    for _ in range(8):
        prediction = predicted(at=desk.clock.now())
        prediction.launched_at = desk.clock.now()
        desk.clock.advance(1.0)
        desk.learn(prediction, matched=False)
    assert record.stage.mode is SpeculationMode.SHADOW
    for _ in range(64):
        prediction = predicted()
        prediction.skipped = DiscardReason.SHADOW
        desk.learn(prediction, matched=False)
    assert record.stage.mode is SpeculationMode.OFF


def test_waste_is_taken_from_the_tenants_budget() -> None:
    desk = Desk(waste_per_minute_s=10.0)
    prediction = predicted()
    prediction.launched_at = desk.clock.now()
    desk.clock.advance(4.0)
    desk.policy.count_waste(prediction, desk.tenant)
    assert desk.tool.of(FORK).wasted_s == 4
    assert desk.tenant.waste_left_s == 6


# Which predictors are asked.


def test_a_predictor_that_is_off_for_all_tools_is_not_asked() -> None:
    desk = Desk()
    assert desk.policy.worth_asking(Predictor.CACHE, ["weather"], desk.tenant)
    desk.tool.of(Predictor.CACHE).stage.mode = SpeculationMode.OFF
    assert not desk.policy.worth_asking(Predictor.CACHE, ["weather"], desk.tenant)
    assert desk.policy.worth_asking(Predictor.CACHE, ["weather", "time"], desk.tenant)


def test_a_branch_must_be_worth_what_it_takes_from_the_step() -> None:
    desk = Desk()
    place = desk.tenant.branches(frozenset({"weather"}), first_step=True).at(0)
    place.propose(takes_s=10.0, lead_s=4.0)
    assert place.win_rate == 0.5
    assert worth_a_branch(desk, "weather", cost=0.09), "it wins half of the handler's 2 s"
    assert not worth_a_branch(desk, "weather", cost=0.11)
    for _ in range(64):
        desk.tool.run_times.observe(0.01)  # the handlers answer at once
    assert not worth_a_branch(desk, "weather", cost=0.09)


def test_a_branch_is_worth_the_generation_of_the_call_too() -> None:
    """Also if no tool may run early, and if the call is wrong at its end."""
    desk = Desk()
    place = desk.tenant.branches(frozenset(), first_step=True).at(0)
    for _ in range(200):
        place.begin()
        place.propose(takes_s=10.0, lead_s=4.0)
        place.save(0.5)
    assert place.win_rate < 0.01
    assert worth_a_branch(desk, drafts=True, cost=0.045)
    assert not worth_a_branch(desk, drafts=True, cost=0.055)
    assert not worth_a_branch(desk, drafts=False, cost=0.01)


def test_no_branch_begins_that_is_of_no_use() -> None:
    desk = Desk()
    assert not any(worth_a_branch(desk, cost=0.0) for _ in range(2 * EXPLORED_EVERY))


def test_the_tools_of_a_turn_are_taken_together() -> None:
    desk = Desk()
    for _ in range(64):
        desk.tool.run_times.observe(0.01)
        desk.tenant.tool("search").run_times.observe(3.0)
    assert not worth_a_branch(desk, "weather")
    assert worth_a_branch(desk, "weather", "search")


def test_branches_that_are_always_wrong_begin_less_and_less_but_not_never() -> None:
    """Also if the turn has tools of which nothing is ever predicted."""
    desk = Desk()
    for _ in range(200):
        desk.tenant.branches(frozenset({"weather", "never_called"}), first_step=True).at(0).begin()
    begun = [worth_a_branch(desk, "weather", "never_called") for _ in range(2 * EXPLORED_EVERY)]
    assert sum(begun) == 2
