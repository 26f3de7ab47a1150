"""A check that applies to every protocol test."""

from __future__ import annotations

import logging
from collections.abc import Generator

import pytest


@pytest.fixture(autouse=True)
def no_stack_trace_is_logged(caplog: pytest.LogCaptureFixture) -> Generator[None]:
    """Checks that nothing a client does makes the server log a stack trace or a defect.

    The supervisor may log a stack trace: clients do not cause the failed start of an engine. So may
    grpc.aio for the closed loop of an earlier test: all loops of a process share its poller.
    """
    yield
    records = [
        record
        for record in caplog.get_records("call")
        if record.name != "precall_service.engine.supervisor" and not _of_an_earlier_loop(record)
    ]
    assert not [record.getMessage() for record in records if record.exc_info]
    assert not [
        record.getMessage()
        for record in records
        if "incident" in record.getMessage() or "Traceback" in record.getMessage()
    ]


def _of_an_earlier_loop(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    return (
        record.name == "asyncio"
        and "PollerCompletionQueue" in record.getMessage()
        and isinstance(error, RuntimeError)
        and str(error) == "Event loop is closed"
    )
