"""Turns the content parts of a message, a turn or a result into text."""

from __future__ import annotations

from collections.abc import Sequence

from precall.v1 import content_pb2
from precall_service.transport.fields import check_count, invalid
from precall_service.transport.statuses import not_served

PARTS_MAX = 256


def content_text(path: str, parts: Sequence[content_pb2.ContentPart]) -> str:
    """Returns the text of all parts together.

    Raises:
        ServiceError: NOT_SERVED if a part is not text; FIELD_INVALID if a part is unset; TOO_LARGE
            if there are too many parts.
    """
    check_count(path, len(parts), PARTS_MAX, "parts")
    for index, part in enumerate(parts):
        match part.WhichOneof("part"):
            case "text":
                pass
            case None:
                raise invalid(f"{path}[{index}]", "the part is unset: give it a text")
            case kind:
                raise not_served(f"{path}[{index}].{kind}", "CAPABILITY_MEDIA")
    return "".join(part.text for part in parts)
