"""The counts of refusals."""

from __future__ import annotations

from precall_service.agent.refused import OTHERS, TENANTS_MAX, RefusalCounts
from precall_service.domain.errors import Reason


def test_refusals_are_counted_by_tenant_and_reason() -> None:
    counts = RefusalCounts()
    for _ in range(2):
        counts.note("ann", Reason.OVERLOADED)
    counts.note("ann", Reason.TOO_LARGE)
    counts.note("bob", Reason.OVERLOADED)
    assert counts.by_tenant() == {
        "ann": {Reason.OVERLOADED: 2, Reason.TOO_LARGE: 1},
        "bob": {Reason.OVERLOADED: 1},
    }


def test_invented_tenants_take_no_more_room_and_lose_no_count() -> None:
    counts = RefusalCounts()
    for number in range(TENANTS_MAX + 100):
        counts.note(f"tenant-{number}", Reason.OVERLOADED)
    by_tenant = counts.by_tenant()
    assert len(by_tenant) == TENANTS_MAX + 1
    assert by_tenant[OTHERS] == {Reason.OVERLOADED: 100}
    assert "tenant-0" not in by_tenant
