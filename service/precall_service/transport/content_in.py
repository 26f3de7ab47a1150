"""Parts of content as text: what a message, a turn or a result says, checked against its limit."""

from __future__ import annotations

from collections.abc import Sequence

from precall.v1 import content_pb2
from precall_service.transport.fields import check_count, check_text, invalid
from precall_service.transport.statuses import not_served

PARTS_MAX = 256


def content_text(path: str, parts: Sequence[content_pb2.ContentPart], bytes_max: int) -> str:
    """The text of all parts together.

    Raises:
        ServiceError: NOT_SERVED, a part is not text; FIELD_INVALID, a part is unset; TOO_LARGE,
            there are more parts, or more bytes of text, than the limit.
    """
    check_count(path, len(parts), PARTS_MAX, "parts")
    for index, part in enumerate(parts):
        match part.WhichOneof("part"):
            case "text":
                pass
            case None:
                raise invalid(f"{path}[{index}]", "it is unset: give it a text")
            case kind:
                raise not_served(f"{path}[{index}].{kind}", "CAPABILITY_MEDIA")
    text = "".join(part.text for part in parts)
    check_text(path, text, bytes_max)
    return text
