"""Errors on the wire: each has an ErrorInfo, and BadRequest and RetryInfo if they apply."""

from __future__ import annotations

import pytest

from precall_service.domain.errors import Reason, ServiceError
from precall_service.transport.statuses import not_served, to_status
from tests.support.wire import failure


@pytest.mark.parametrize("reason", Reason, ids=lambda reason: reason.name)
def test_every_reason_has_its_status(reason: Reason) -> None:
    error = failure(to_status(ServiceError(reason, "what and why")))
    assert (error.reason, error.message) == (reason.name, "what and why")
    assert error.code.value[0] == reason.code.value
    assert (error.field, error.retry_after_s, error.metadata) == ("", None, {})


def test_a_status_has_the_field_the_retry_delay_and_the_metadata() -> None:
    error = failure(
        to_status(
            ServiceError(
                Reason.OVERLOADED,
                "too much",
                field="start_turn.text",
                retry_after_s=1.25,
                metadata={"limit": "5"},
            )
        )
    )
    assert error.field == "start_turn.text"
    assert error.retry_after_s == 1.25
    assert error.metadata == {"limit": "5"}


def test_a_not_served_error_names_the_method_and_its_capability() -> None:
    error = failure(to_status(not_served("Service.Method", "CAPABILITY_RESUME")))
    assert error.reason == "NOT_SERVED"
    assert error.metadata == {"method": "Service.Method", "capability": "CAPABILITY_RESUME"}
