"""Checks single fields of frames as a precall server does; errors name the field and the limit."""

from __future__ import annotations

import re
from collections.abc import Sequence

from precall.testing._service.domain.json import JsonObject, dump, parse_object
from precall.testing._status import RefusedError
from precall.v1 import content_pb2

PARTS_MAX = 256
TOOL_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


def invalid(field: str, problem: str) -> RefusedError:
    """Returns the refusal of a value outside its documented range."""
    return RefusedError("FIELD_INVALID", f"{field}: {problem}", field)


def not_served(field: str) -> RefusedError:
    """Returns the refusal of a field that no server serves yet."""
    return RefusedError("NOT_SERVED", f"{field} is in the contract, but is not served")


def check_count(field: str, count: int, limit: int, unit: str) -> None:
    """Raises TOO_LARGE if `count` is above `limit`. A limit of 0 is none."""
    if limit and count > limit:
        text = f"{field}: it has {count} {unit}, the limit is {limit}: send less"
        raise RefusedError("TOO_LARGE", text, field)


def check_text(field: str, text: str, bytes_max: int) -> None:
    """Raises TOO_LARGE if the text has more than `bytes_max` bytes of UTF-8."""
    check_count(field, len(text.encode()), bytes_max, "bytes")


def content_text(field: str, parts: Sequence[content_pb2.ContentPart]) -> str:
    """Returns the text of all parts.

    Raises:
        RefusedError: There are too many parts, or one is unset or not text.
    """
    check_count(field, len(parts), PARTS_MAX, "parts")
    for index, part in enumerate(parts):
        match part.WhichOneof("part"):
            case "text":
                pass
            case None:
                raise invalid(f"{field}[{index}]", "the part is unset: give it a text")
            case kind:
                raise not_served(f"{field}[{index}].{kind}")
    return "".join(part.text for part in parts)


def json_object(text: str) -> JsonObject:
    """Returns the object that a JSON text holds, if it can be written as UTF-8 JSON again.

    Raises:
        ValueError: The text is not such an object; the message says why.
    """
    value = parse_object(text)
    try:
        dump(value).encode()
    except (ValueError, RecursionError):
        raise ValueError(
            "it holds a number or a character that JSON in UTF-8 cannot carry, or is nested too "
            "deeply"
        ) from None
    return value
