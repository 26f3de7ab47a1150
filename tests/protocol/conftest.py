"""Registers what holds of every protocol test."""

from __future__ import annotations

from collections.abc import Generator

import pytest


@pytest.fixture(autouse=True)
def no_stack_trace_is_logged(caplog: pytest.LogCaptureFixture) -> Generator[None]:
    """Whatever a client does, no log record holds a stack trace and none tells of a defect.

    The supervisor may log one: why an engine did not start is no client's doing.
    """
    yield
    records = [
        record
        for record in caplog.get_records("call")
        if record.name != "precall_service.engine.supervisor"
    ]
    assert not [record.getMessage() for record in records if record.exc_info]
    assert not [
        record.getMessage()
        for record in records
        if "incident" in record.getMessage() or "Traceback" in record.getMessage()
    ]
