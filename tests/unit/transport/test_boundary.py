"""Whatever happens inside a method, the client gets a status and no stack trace."""

from __future__ import annotations

import asyncio
from typing import NoReturn, cast

import grpc
import grpc.aio
import pytest
from google.rpc.status_pb2 import Status

from precall_service.domain.errors import Reason, ServiceError
from precall_service.transport.boundary import status_boundary
from tests.support.wire import Failure, failure

Context = grpc.aio.ServicerContext[object, object]


class RecordingContext:
    """A context that records the status that an RPC ended with."""

    def __init__(self) -> None:
        self.failure: Failure | None = None

    def done(self) -> bool:
        return self.failure is not None

    async def abort(
        self,
        code: grpc.StatusCode,
        details: str = "",
        trailing_metadata: tuple[tuple[str, bytes], ...] = (),
    ) -> NoReturn:
        assert self.failure is None, "an RPC ends once"
        [(key, value)] = trailing_metadata
        assert key == "grpc-status-details-bin"
        self.failure = failure(Status.FromString(value))
        assert (self.failure.code, self.failure.message) == (code, details)
        raise grpc.aio.AbortError


async def ended_by(error: BaseException) -> Failure:
    """Returns the status of a method that raises this."""
    context = RecordingContext()
    with pytest.raises(grpc.aio.AbortError):
        async with status_boundary(cast("Context", context), "Method"):
            raise error
    assert context.failure is not None
    return context.failure


async def test_a_service_error_becomes_the_status() -> None:
    error = await ended_by(ServiceError(Reason.OVERLOADED, "full", retry_after_s=2.0))
    assert (error.reason, error.message, error.retry_after_s) == ("OVERLOADED", "full", 2.0)


@pytest.mark.parametrize(
    "defect",
    [
        KeyError("secret"),
        ExceptionGroup("several", [KeyError("secret"), ValueError("secret")]),
        RecursionError("secret"),
        asyncio.CancelledError("of an inner task"),
    ],
    ids=lambda defect: type(defect).__name__,
)
async def test_a_defect_is_reported_by_an_incident_number_that_the_log_has(
    defect: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    error = await ended_by(defect)
    assert error.reason == "INTERNAL"
    assert "secret" not in error.message
    assert error.metadata["incident"] in error.message
    assert error.metadata["incident"] in caplog.text


BROKEN = grpc.aio.InternalError("execute_batch")


@pytest.mark.parametrize(
    "broken",
    [BROKEN, ExceptionGroup("a", [BROKEN]), ExceptionGroup("a", [ExceptionGroup("b", [BROKEN])])],
    ids=["bare", "of one task", "of a task of a task"],
)
async def test_a_stream_that_broke_during_a_write_is_not_a_defect(
    broken: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    assert (await ended_by(broken)).reason == "CANCELLED"
    assert not [record for record in caplog.records if record.exc_info]


async def test_a_defect_together_with_a_broken_stream_is_a_defect() -> None:
    both = ExceptionGroup("tasks", [BROKEN, KeyError("secret")])
    assert (await ended_by(both)).reason == "INTERNAL"


async def test_the_clients_own_cancel_is_passed_on() -> None:
    context = RecordingContext()
    entered = asyncio.Event()

    async def method() -> None:
        async with status_boundary(cast("Context", context), "Method"):
            entered.set()
            await asyncio.Event().wait()

    running = asyncio.create_task(method())
    await entered.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert context.failure is None


async def test_an_rpc_that_has_ended_is_not_ended_again() -> None:
    context = RecordingContext()
    with pytest.raises(grpc.aio.AbortError):
        async with status_boundary(cast("Context", context), "Method"):
            raise grpc.aio.AbortError
    assert context.failure is None


async def test_a_method_that_raises_nothing_is_not_aborted() -> None:
    context = RecordingContext()
    async with status_boundary(cast("Context", context), "Method"):
        pass
    assert context.failure is None
