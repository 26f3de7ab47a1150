"""Defects of the service: the details are in the log, and the client gets only a number."""

from __future__ import annotations

import logging

import pytest

from precall_service.domain.errors import Reason
from precall_service.incidents import causes, report_defect

log = logging.getLogger(__name__)


def test_a_defect_is_logged_with_its_causes_and_reported_by_its_number(
    caplog: pytest.LogCaptureFixture,
) -> None:
    group = ExceptionGroup("unhandled errors in a TaskGroup", [KeyError("weather")])
    error = report_defect(log, "turn 't1' of conv-1 (tenant ann)", group)
    assert error.reason is Reason.INTERNAL
    assert error.metadata["incident"] in error.message
    assert "weather" not in error.message
    [record] = caplog.records
    line = record.getMessage()
    assert "turn 't1' of conv-1 (tenant ann) failed" in line
    assert error.metadata["incident"] in line
    assert "KeyError: 'weather'" in line
    assert record.exc_info is not None


def test_causes_are_the_errors_inside_all_groups() -> None:
    inner = ExceptionGroup("inner", [ValueError("b"), TypeError("c")])
    assert causes(ExceptionGroup("outer", [OSError("a"), inner])) == (
        "OSError: a; ValueError: b; TypeError: c"
    )
