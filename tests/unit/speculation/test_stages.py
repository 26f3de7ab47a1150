"""A predictor is demoted when it costs more than it saves, and comes back when that changes."""

from __future__ import annotations

from precall_service.domain.events import Predictor
from precall_service.domain.speculation import SpeculationMode
from precall_service.speculation.limits import SpeculationLimits
from precall_service.speculation.stages import (
    DEMOTED_AFTER,
    OFF_AFTER,
    OFF_CALLS,
    PROMOTED_AFTER,
    Stage,
)

OFF, SHADOW, ISSUE = SpeculationMode.OFF, SpeculationMode.SHADOW, SpeculationMode.ISSUE


def judged(stage: Stage, times: int, saved_s: float, wasted_s: float) -> Stage:
    for _ in range(times):
        stage.judge(saved_s, wasted_s, weight=0.2, matched=saved_s > 0)
    return stage


def in_shadow() -> Stage:
    return judged(Stage(), DEMOTED_AFTER, 0.0, 1.0)


def turned_off() -> Stage:
    return judged(in_shadow(), OFF_AFTER, 0.0, 1.0)


def test_a_stage_begins_with_issue() -> None:
    assert Stage().mode is ISSUE


def test_waste_demotes_after_enough_verdicts() -> None:
    stage = judged(Stage(), DEMOTED_AFTER - 1, 0.0, 1.0)
    assert stage.mode is ISSUE
    assert judged(stage, 1, 0.0, 1.0).mode is SHADOW


def test_savings_outweigh_waste_by_its_weight() -> None:
    stage = Stage()
    for _ in range(50):  # with a weight of 0.2, a second saved makes up for 5 that are wasted
        judged(stage, 1, 1.0, 0.0)
        judged(stage, 4, 0.0, 1.0)
    assert stage.mode is ISSUE
    judged(stage, 20, 0.0, 1.0)
    assert stage.mode is SHADOW


def test_what_would_have_saved_promotes_after_enough_verdicts() -> None:
    stage = judged(in_shadow(), PROMOTED_AFTER - 1, 1.0, 0.0)
    assert stage.mode is SHADOW
    assert judged(stage, 1, 1.0, 0.0).mode is ISSUE


def test_a_demotion_is_a_new_start() -> None:
    stage = judged(in_shadow(), PROMOTED_AFTER, 1.0, 0.0)
    assert stage.mode is ISSUE
    assert judged(stage, DEMOTED_AFTER - 1, 0.0, 100.0).mode is ISSUE
    assert judged(stage, 1, 0.0, 100.0).mode is SHADOW


def test_a_predictor_that_is_never_right_is_turned_off() -> None:
    stage = judged(in_shadow(), OFF_AFTER - 1, 0.0, 1.0)
    assert stage.mode is SHADOW
    assert judged(stage, 1, 0.0, 1.0).mode is OFF


def test_a_predictor_that_was_right_once_is_not_turned_off() -> None:
    stage = judged(in_shadow(), 1, 0.01, 0.0)
    assert judged(stage, 3 * OFF_AFTER, 0.0, 1.0).mode is SHADOW


def test_after_enough_calls_a_predictor_is_tried_again_in_shadow() -> None:
    stage = turned_off()
    for _ in range(OFF_CALLS - 1):
        stage.count_call()
    assert stage.mode is OFF
    stage.count_call()
    assert stage.mode is SHADOW
    assert judged(stage, PROMOTED_AFTER, 1.0, 0.0).mode is ISSUE


def test_calls_change_nothing_else() -> None:
    for stage in (Stage(), in_shadow()):
        before = stage.mode
        for _ in range(2 * OFF_CALLS):
            stage.count_call()
        assert stage.mode is before


def test_the_most_specific_pin_counts() -> None:
    limits = SpeculationLimits(
        stages={
            ("weather", Predictor.FORK): OFF,
            ("weather", None): SHADOW,
            ("*", Predictor.CACHE): ISSUE,
        }
    )
    assert limits.pinned_stage("weather", Predictor.FORK) is OFF
    assert limits.pinned_stage("weather", Predictor.CACHE) is SHADOW
    assert limits.pinned_stage("time", Predictor.CACHE) is ISSUE
    assert limits.pinned_stage("time", Predictor.FORK) is None
    everything = SpeculationLimits(stages={("*", None): SHADOW})
    assert everything.pinned_stage("time", Predictor.FORK) is SHADOW
