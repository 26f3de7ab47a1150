"""Checks and converts single fields of frames; errors name the field, its size and the limit."""

from __future__ import annotations

from google.protobuf.duration_pb2 import Duration

from precall_service.domain.errors import Reason, ServiceError
from precall_service.domain.json import JsonError, JsonObject, dump, parse_object


def check_count(path: str, count: int, limit: int, unit: str) -> None:
    """Raises TOO_LARGE if `count` is above `limit`."""
    if count > limit:
        raise too_large(path, count, limit, unit)


def check_text(path: str, text: str, bytes_max: int) -> None:
    """Raises TOO_LARGE if the text has more than `bytes_max` bytes of UTF-8."""
    check_count(path, len(text.encode()), bytes_max, "bytes")


def json_object(path: str, text: str) -> JsonObject:
    """Returns the object that a JSON text holds, if it can be written as UTF-8 JSON again.

    JSON can spell half of a surrogate pair, which chat templates do not accept.

    Raises:
        ServiceError: FIELD_INVALID if the text is not such an object.
    """
    try:
        value = parse_object(text)
        dump(value).encode()
    except JsonError as error:
        raise invalid(path, str(error)) from None
    except (ValueError, RecursionError):
        raise invalid(
            path,
            "it holds half of a surrogate pair, which is not a character, or is nested too deeply",
        ) from None
    return value


def duration(seconds: float) -> Duration:
    """Returns a number of seconds as a Duration."""
    value = Duration()
    value.FromNanoseconds(round(seconds * 1e9))
    return value


def seconds(value: Duration) -> float:
    """Returns a Duration as a number of seconds."""
    return value.seconds + value.nanos / 1e9


def invalid(field: str, problem: str) -> ServiceError:
    """Returns the error for a value outside its documented range."""
    return ServiceError(Reason.FIELD_INVALID, f"{field}: {problem}", field=field)


def too_large(field: str, size: int, limit: int, unit: str) -> ServiceError:
    """Returns the error for a size above its limit."""
    return ServiceError(
        Reason.TOO_LARGE,
        f"{field}: it has {size} {unit}, the limit is {limit}: send less",
        field=field,
        metadata={"size": str(size), "limit": str(limit)},
    )
