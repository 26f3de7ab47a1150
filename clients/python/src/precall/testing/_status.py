"""Makes statuses like those of a precall server."""

from __future__ import annotations

from google.protobuf.any_pb2 import Any as PackedDetail
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from precall import _errors, _frames
from precall.v1 import error_pb2


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


def _retry(after_s: float | None) -> list[RetryInfo]:
    return [] if after_s is None else [RetryInfo(retry_delay=_frames.duration(after_s))]
