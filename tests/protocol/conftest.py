"""A check that applies to every protocol test."""

from __future__ import annotations

from collections.abc import Generator

import pytest


@pytest.fixture(autouse=True)
def no_stack_trace_is_logged(caplog: pytest.LogCaptureFixture) -> Generator[None]:
    """Checks that nothing a client does makes the server log a stack trace or a defect.

    The supervisor may log a stack trace: clients do not cause the failed start of an engine.
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
