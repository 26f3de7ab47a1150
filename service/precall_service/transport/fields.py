"""Single fields of a frame: checks, conversions, and errors that name field, size and limit."""

from __future__ import annotations

from google.protobuf.duration_pb2 import Duration

from precall_service.domain.errors import Reason, ServiceError
from precall_service.domain.json import JsonError, JsonObject, dump, parse_object


def check_count(path: str, count: int, limit: int, unit: str) -> None:
    """Raises TOO_LARGE where there are more than `limit` of something."""
    if count > limit:
        raise too_large(path, count, limit, unit)


def check_text(path: str, text: str, bytes_max: int) -> None:
    """Raises TOO_LARGE where the text has more bytes of UTF-8."""
    check_count(path, len(text.encode()), bytes_max, "bytes")


def json_object(path: str, text: str) -> JsonObject:
    """The JSON object of a text, if it can be written again.

    JSON can spell a number that no double holds and half a surrogate pair; no template takes them.

    Raises:
        ServiceError: FIELD_INVALID, otherwise.
    """
    try:
        value = parse_object(text)
        dump(value).encode()
    except JsonError as error:
        raise invalid(path, str(error)) from None
    except (ValueError, RecursionError):
        raise invalid(path, "it has a number or a character that UTF-8 JSON cannot carry") from None
    return value


def duration(seconds: float) -> Duration:
    """A number of seconds as a duration."""
    value = Duration()
    value.FromNanoseconds(round(seconds * 1e9))
    return value


def seconds(value: Duration) -> float:
    """A duration as a number, in seconds."""
    return value.seconds + value.nanos / 1e9


def invalid(field: str, problem: str) -> ServiceError:
    """The error for a value outside of its documented range."""
    return ServiceError(Reason.FIELD_INVALID, f"{field}: {problem}", field=field)


def too_large(field: str, size: int, limit: int, unit: str) -> ServiceError:
    """The error for a size over its limit."""
    return ServiceError(
        Reason.TOO_LARGE,
        f"{field}: it has {size} {unit}, the limit is {limit}: send less",
        field=field,
        metadata={"size": str(size), "limit": str(limit)},
    )
