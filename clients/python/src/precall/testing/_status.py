"""What every part of a fake server needs: statuses like a real server's, and the text of a turn."""

from __future__ import annotations

from typing import Any, NoReturn

import grpc
import grpc.aio
from google.protobuf.any_pb2 import Any as PackedDetail
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from precall import _errors, _frames
from precall.v1 import error_pb2, turn_pb2


class RefusedError(Exception):
    """A request is refused. `reason` is one of the contract; `field` may be empty."""

    def __init__(
        self, reason: str, message: str, field: str = "", retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.field = field
        self.retry_after_s = retry_after_s

    @property
    def status(self) -> Status:
        """The status that the request is refused with."""
        refused = status(self.reason, self.message, self.retry_after_s)
        if self.field:
            violation = BadRequest.FieldViolation(field=self.field, description=self.message)
            refused.details.add().Pack(BadRequest(field_violations=[violation]))
        return refused


def status(
    reason: str, message: str, retry_after_s: float | None = None, **metadata: str
) -> Status:
    """Returns the status for a reason of the contract.

    Raises:
        ValueError: The contract has no such reason.
    """
    name = f"ERROR_REASON_{reason}"
    error_pb2.ErrorReason.Value(name)
    details = [
        ErrorInfo(reason=name, domain=_errors.DOMAIN, metadata=metadata),
        *_retry(retry_after_s),
    ]
    packed = [PackedDetail() for _ in details]
    for target, detail in zip(packed, details, strict=True):
        target.Pack(detail)
    code = _errors.of_reason(reason, message).code.value[0]
    return Status(code=code, message=message, details=packed)


async def abort(context: grpc.aio.ServicerContext[Any, Any], refused: Status) -> NoReturn:
    """Ends a call with a status of the contract."""
    code = next(code for code in grpc.StatusCode if code.value[0] == refused.code)
    details = ((_errors.DETAILS_KEY, refused.SerializeToString()),)
    await context.abort(code, refused.message, details)


def content_text(start: turn_pb2.StartTurn) -> str:
    """Returns what the user says in a turn."""
    return "".join(part.text for part in start.content)


def _retry(after_s: float | None) -> list[RetryInfo]:
    return [] if after_s is None else [RetryInfo(retry_delay=_frames.duration(after_s))]
