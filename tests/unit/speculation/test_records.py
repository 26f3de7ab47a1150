"""Records are bounded, and one tenant's say nothing of another's."""

from __future__ import annotations

import pytest

from precall_service.domain.events import Predictor
from precall_service.domain.speculation import SpeculationMode
from precall_service.speculation.limits import SpeculationLimits
from precall_service.speculation.places import WINS_FIRST
from precall_service.speculation.records import (
    TENANTS_MAX,
    TOOLS_MAX,
    TOOLSETS_MAX,
    SpeculationRecords,
    TenantRecord,
)
from tests.support.clock import ManualClock


def tenant(**limits: float) -> tuple[TenantRecord, ManualClock]:
    clock = ManualClock()
    return TenantRecord(clock, SpeculationLimits(**limits)), clock  # pyright: ignore[reportArgumentType]


def test_a_tenant_has_one_record() -> None:
    records = SpeculationRecords(ManualClock(), SpeculationLimits())
    assert records.of("ann") is records.of("ann")
    assert records.of("ann") is not records.of("bob")
    assert records.of("ann").tool("weather") is not records.of("bob").tool("weather")


def test_a_look_at_a_tenant_keeps_no_record() -> None:
    records = SpeculationRecords(ManualClock(), SpeculationLimits())
    assert list(records.peek("ann").tools()) == []
    assert records.peek("ann") is not records.peek("ann")
    assert records.peek("ann") is not records.of("ann")
    assert records.peek("ann") is records.of("ann")


def test_the_least_recently_used_tenant_is_forgotten() -> None:
    records = SpeculationRecords(ManualClock(), SpeculationLimits())
    first, second = records.of("first"), records.of("second")
    for number in range(TENANTS_MAX - 2):
        records.of(f"tenant-{number}")
    assert records.of("first") is first
    records.of("one more")
    assert records.of("first") is first
    assert records.of("second") is not second


def test_the_least_recently_used_tool_is_forgotten() -> None:
    record, _ = tenant()
    first, second = record.tool("first"), record.tool("second")
    for number in range(TOOLS_MAX - 2):
        record.tool(f"tool-{number}")
    assert record.tool("first") is first
    record.tool("one more")
    assert len(list(record.tools())) == TOOLS_MAX
    assert record.tool("first") is first
    assert record.tool("second") is not second


def test_a_set_of_tools_has_a_record_of_its_branches() -> None:
    record, _ = tenant()
    both, one = frozenset({"weather", "time"}), frozenset({"weather"})
    first = record.branches(both, first_step=True)
    assert record.branches(frozenset({"time", "weather"}), first_step=True) is first
    second = record.branches(one, first_step=True)
    assert second is not first
    for number in range(TOOLSETS_MAX - 2):
        record.branches(frozenset({f"tool-{number}"}), first_step=True)
    assert record.branches(both, first_step=True) is first
    record.branches(frozenset({"one more"}), first_step=True)
    assert record.branches(one, first_step=True) is not second, "it was used least recently"


def test_first_steps_and_later_ones_are_judged_apart() -> None:
    record, _ = tenant()
    tools = frozenset({"weather"})
    for _ in range(100):
        record.branches(tools, first_step=False).at(0).begin()
    assert record.branches(tools, first_step=False).at(0).win_rate < 0.1
    assert record.branches(tools, first_step=True).at(0).win_rate == pytest.approx(WINS_FIRST)


def test_tools_come_by_name() -> None:
    record, _ = tenant()
    for name in ("time", "book", "weather"):
        record.tool(name)
    assert [name for name, _ in record.tools()] == ["book", "time", "weather"]


def test_waste_is_taken_from_a_budget_that_is_refilled() -> None:
    record, clock = tenant(waste_per_minute_s=60.0)
    assert record.waste_left_s == 60
    record.waste(50.0)
    assert record.waste_left_s == 10
    record.waste(30.0)
    assert record.waste_left_s == -20, "a run may waste more than there is, once"
    clock.advance(25.0)
    assert record.waste_left_s == 5
    clock.advance(3600.0)
    assert record.waste_left_s == 60, "and never more than a minute's"


def test_a_refill_does_not_depend_on_how_often_one_looks() -> None:
    record, clock = tenant(waste_per_minute_s=30.0)
    record.waste(30.0)
    for _ in range(100):
        clock.advance(0.1)
        assert record.waste_left_s >= 0
    assert record.waste_left_s == pytest.approx(5.0)


def test_without_a_budget_nothing_may_be_wasted() -> None:
    record, clock = tenant(waste_per_minute_s=0.0)
    clock.advance(1000.0)
    assert record.waste_left_s == 0


def test_calls_are_counted_with_those_that_a_prediction_answered() -> None:
    record, _ = tenant()
    tool = record.tool("weather")
    tool.count_call(confirmed=True)
    tool.count_call(confirmed=False)
    assert (tool.calls, tool.calls_confirmed) == (2, 1)


def test_a_predictor_has_a_record_for_each_tool() -> None:
    record, _ = tenant()
    fork = record.tool("weather").of(Predictor.FORK)
    assert record.tool("weather").of(Predictor.FORK) is fork
    assert record.tool("weather").of(Predictor.CACHE) is not fork
    assert record.tool("time").of(Predictor.FORK) is not fork
    assert fork.leads_at(1) is fork.leads
    assert fork.leads_at(2) is fork.leads_at(3) is fork.far_leads


def test_a_pinned_stage_does_not_move() -> None:
    clock = ManualClock()
    limits = SpeculationLimits(stages={("weather", Predictor.FORK): SpeculationMode.SHADOW})
    record = TenantRecord(clock, limits)
    assert record.pinned_stage("weather", Predictor.FORK) is SpeculationMode.SHADOW
    assert record.pinned_stage("weather", Predictor.CACHE) is None
    assert record.stage("weather", Predictor.FORK) is SpeculationMode.SHADOW
    assert record.stage("weather", Predictor.CACHE) is SpeculationMode.ISSUE
    assert not record.tool("weather").predictors, "a look at a stage makes no record"
    record.tool("weather").of(Predictor.CACHE).stage.mode = SpeculationMode.OFF
    assert record.stage("weather", Predictor.CACHE) is SpeculationMode.OFF
