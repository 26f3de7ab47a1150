"""Turns a ServiceError into a `google.rpc.Status`, for a frame or as the end of an RPC."""

from __future__ import annotations

import asyncio
from typing import NoReturn, TypeVar

import grpc
import grpc.aio
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from precall_service.domain.errors import Code, Reason, ServiceError

RequestT = TypeVar("RequestT")
ResponseT = TypeVar("ResponseT")

DOMAIN = "precall"
"""The domain of every ErrorInfo."""
STATUS_UNREAD_S = 5.0
"""How long a status may wait for the client to read the message before it."""

_DETAILS_KEY = "grpc-status-details-bin"  # https://github.com/grpc/proposal/blob/master/L44

_CODES: dict[Code, grpc.StatusCode] = {code: grpc.StatusCode[code.name] for code in Code}


class UnreadStatusError(Exception):
    """The client reads nothing, so that its call cannot be ended with a status."""


def to_status(error: ServiceError) -> Status:
    """Returns the status: an ErrorInfo, a BadRequest if there is a field, a RetryInfo if due."""
    info = ErrorInfo(reason=f"ERROR_REASON_{error.reason.name}", domain=DOMAIN)
    info.metadata.update(error.metadata)
    status = Status(code=error.code.value, message=error.message, details=[_pack(info)])
    if error.field:
        violation = BadRequest.FieldViolation(field=error.field, description=error.message)
        status.details.append(_pack(BadRequest(field_violations=[violation])))
    if error.retry_after_s is not None:
        delay = Duration()
        delay.FromNanoseconds(round(error.retry_after_s * 1e9))
        status.details.append(_pack(RetryInfo(retry_delay=delay)))
    return status


async def abort(
    context: grpc.aio.ServicerContext[RequestT, ResponseT], error: ServiceError
) -> NoReturn:
    """Ends the RPC with the error as its status, including details.

    Raises:
        UnreadStatusError: a message that the client does not read is in the way of the status.
        grpc.aio.AbortError: always, otherwise.
    On cancel: the status may not have been sent.
    """
    status = to_status(error)
    details = ((_DETAILS_KEY, status.SerializeToString()),)
    try:
        async with asyncio.timeout(STATUS_UNREAD_S):
            await context.abort(_CODES[error.code], error.message, trailing_metadata=details)
    except (TimeoutError, grpc.aio.InternalError):
        # gRPC refuses a status outright if the client has not read the very first message. It also
        # fails if the client is gone, and then nothing is left to be ended.
        raise UnreadStatusError from None


def not_served(method: str, capability: str) -> ServiceError:
    """Returns the error for a method, frame or field that this server does not serve."""
    return ServiceError(
        Reason.NOT_SERVED,
        f"{method} is in the contract, but this version does not serve it ({capability} is not "
        "granted)",
        metadata={"method": method, "capability": capability},
    )


def _pack(message: ErrorInfo | BadRequest | RetryInfo) -> Any:
    packed = Any()
    packed.Pack(message)
    return packed
