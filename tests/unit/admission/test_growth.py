"""The expected growth of turns: the record of similar turns, and what stands in for it."""

from __future__ import annotations

import pytest

from precall_service.admission import GrowthRecord, growth
from precall_service.admission.growth import (
    PRIOR,
    TENANTS_BEFORE_TRUST,
    TENANTS_MAX,
    TURNS_BEFORE_TRUST,
    WINDOW,
)

SAFE = 10_000


def observed(record: GrowthRecord, *grown: int, tenant: str = "ann", tools: str = "search") -> None:
    for tokens in grown:
        record.observe(tenant, tools, tokens)


def known(record: GrowthRecord, *grown: int) -> None:
    """Observes enough turns of as many tenants, each of whose turns grow alike."""
    for number, tokens in enumerate(grown):
        observed(record, *[tokens] * TURNS_BEFORE_TRUST, tenant=f"tenant-{number}")


# Of a tenant whose turns are known.


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


def test_the_expectation_is_never_above_the_safe_value() -> None:
    record = GrowthRecord()
    observed(record, *[500] * TURNS_BEFORE_TRUST)
    assert record.expected("ann", "search", safe=200) == 200
    assert record.expected("bob", "search", safe=200) == 200
    assert record.expected("bob", "search", safe=-3) == -3


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


def test_old_turns_are_forgotten() -> None:
    record = GrowthRecord()
    observed(record, *[9_000] * WINDOW)
    observed(record, *[10] * WINDOW)
    assert record.expected("ann", "search", safe=SAFE) == 10


# Of a tenant whose turns are not.


def test_without_a_record_the_likely_is_expected_and_not_the_worst() -> None:
    assert GrowthRecord().expected("ann", "search", safe=SAFE) == PRIOR


def test_few_turns_may_only_raise_the_expectation() -> None:
    record = GrowthRecord()
    observed(record, 10)
    assert record.expected("ann", "search", safe=SAFE) == PRIOR
    observed(record, 5 * PRIOR)
    assert record.expected("ann", "search", safe=SAFE) == 5 * PRIOR
    observed(record, 10)
    assert record.expected("ann", "mail", safe=SAFE) == 5 * PRIOR


def test_four_short_turns_are_enough_to_expect_less_than_the_prior() -> None:
    record = GrowthRecord()
    observed(record, *[100] * (TURNS_BEFORE_TRUST - 1))
    assert record.expected("ann", "search", safe=SAFE) == PRIOR
    observed(record, 100)
    assert record.expected("ann", "search", safe=SAFE) == 100


def test_a_new_tenant_is_expected_to_be_like_the_middle_one_of_the_others() -> None:
    record = GrowthRecord()
    known(record, *[300] * (TENANTS_BEFORE_TRUST - 1))
    assert record.expected("ann", "search", safe=SAFE) == PRIOR
    known(record, *[300] * (TENANTS_BEFORE_TRUST - 1), 700)
    assert record.expected("ann", "search", safe=SAFE) == 300


@pytest.mark.parametrize("grown", [0, 1, 1 << 20])
def test_one_tenant_changes_nothing_for_a_new_one(grown: int) -> None:
    """However its turns grow, and however many there are, it is one of those that are counted."""
    record = GrowthRecord()
    known(record, 300, 400, 400, 500)
    observed(record, *[grown] * (5 * WINDOW), tenant="hostile")
    assert record.expected("ann", "search", safe=1 << 30) == 400


def test_the_record_of_one_tenant_is_never_used_for_another() -> None:
    record = GrowthRecord()
    observed(record, *[1] * WINDOW, tenant="ann")
    assert record.expected("bob", "search", safe=SAFE) == PRIOR
    assert record.expected("", "search", safe=SAFE) == PRIOR


# Bounds.


def test_the_least_recently_observed_keys_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growth, "KEYS_MAX", 4)
    record = GrowthRecord()
    for tenant in ("ann", "bob"):
        observed(record, *[10] * TURNS_BEFORE_TRUST, tenant=tenant)
    observed(record, 10, tenant="ann")
    observed(record, *[10] * TURNS_BEFORE_TRUST, tenant="cid")
    assert record.expected("ann", "search", safe=SAFE) == 10
    assert record.expected("bob", "search", safe=SAFE) == PRIOR
    assert record.expected("cid", "search", safe=SAFE) == 10


def test_tenants_that_have_not_been_seen_for_long_no_longer_count() -> None:
    record = GrowthRecord()
    known(record, *[300] * TENANTS_MAX)
    for number in range(TENANTS_MAX):
        observed(record, *[800] * TURNS_BEFORE_TRUST, tenant=f"later-{number}")
    assert record.expected("ann", "search", safe=SAFE) == 800
