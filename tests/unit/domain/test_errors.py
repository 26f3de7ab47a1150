"""All texts of a ServiceError can be sent."""

from __future__ import annotations

from precall_service.domain.errors import Reason, ServiceError


def test_all_texts_of_an_error_can_be_encoded_in_utf_8() -> None:
    error = ServiceError(
        Reason.TOOL_UNKNOWN, "no \ud800 é", field="a.\udfff", metadata={"n\ud800": "v\ude00w"}
    )
    assert (error.message, str(error), error.field) == ("no ? é", "no ? é", "a.?")
    assert error.metadata == {"n?": "v?w"}
