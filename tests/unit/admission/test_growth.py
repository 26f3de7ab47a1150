"""The expected growth of turns: first a safe value, then the record of similar turns."""

from __future__ import annotations

import pytest

from precall_service.admission import GrowthRecord, growth
from precall_service.admission.growth import TURNS_BEFORE_TRUST, WINDOW

SAFE = 10_000


def observed(record: GrowthRecord, *grown: int, tenant: str = "ann", tools: str = "search") -> None:
    for tokens in grown:
        record.observe(tenant, tools, tokens)


def test_the_expectation_is_the_safe_value_until_there_are_enough_turns() -> None:
    record = GrowthRecord()
    for _ in range(TURNS_BEFORE_TRUST):
        assert record.expected("ann", "search", safe=SAFE) == SAFE
        observed(record, 100)
    assert record.expected("ann", "search", safe=SAFE) == 100


def test_the_expectation_is_never_above_the_safe_value() -> None:
    record = GrowthRecord()
    observed(record, *[500] * TURNS_BEFORE_TRUST)
    assert record.expected("ann", "search", safe=200) == 200


def test_nine_in_ten_turns_stay_within_the_expectation() -> None:
    record = GrowthRecord()
    observed(record, *range(60, 0, -1))
    expected = record.expected("ann", "search", safe=SAFE)
    assert expected == 54
    assert sum(grown <= expected for grown in range(1, 61)) == 54


def test_the_largest_of_few_turns_decides() -> None:
    record = GrowthRecord()
    observed(record, 10, 400, 20, 30)
    assert record.expected("ann", "search", safe=SAFE) == 400


def test_a_new_tool_set_takes_the_record_of_the_whole_tenant() -> None:
    record = GrowthRecord()
    observed(record, *[100] * TURNS_BEFORE_TRUST, tools="search")
    assert record.expected("ann", "mail", safe=SAFE) == 100
    observed(record, *[7] * TURNS_BEFORE_TRUST, tools="mail")
    assert record.expected("ann", "mail", safe=SAFE) == 7
    assert record.expected("ann", "search", safe=SAFE) == 100


def test_turns_of_all_tool_sets_count_for_the_tenant() -> None:
    record = GrowthRecord()
    for number in range(TURNS_BEFORE_TRUST):
        observed(record, 100 + number, tools=f"tools-{number}")
    assert record.expected("ann", "new", safe=SAFE) == 103


def test_the_record_of_one_tenant_is_never_used_for_another() -> None:
    record = GrowthRecord()
    observed(record, *[1] * WINDOW, tenant="ann")
    assert record.expected("bob", "search", safe=SAFE) == SAFE
    assert record.expected("", "search", safe=SAFE) == SAFE


def test_old_turns_are_forgotten() -> None:
    record = GrowthRecord()
    observed(record, *[9_000] * WINDOW)
    observed(record, *[10] * WINDOW)
    assert record.expected("ann", "search", safe=SAFE) == 10


def test_the_least_recently_observed_keys_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growth, "KEYS_MAX", 4)
    record = GrowthRecord()
    for tenant in ("ann", "bob"):
        observed(record, *[10] * TURNS_BEFORE_TRUST, tenant=tenant)
    observed(record, 10, tenant="ann")
    observed(record, *[10] * TURNS_BEFORE_TRUST, tenant="cid")
    assert record.expected("ann", "search", safe=SAFE) == 10
    assert record.expected("bob", "search", safe=SAFE) == SAFE
    assert record.expected("cid", "search", safe=SAFE) == 10
