"""What a ServiceError holds can be sent."""

from __future__ import annotations

from precall_service.domain.errors import Reason, ServiceError


def test_no_text_of_an_error_has_a_character_that_utf_8_cannot_carry() -> None:
    error = ServiceError(
        Reason.TOOL_UNKNOWN, "no \ud800 é", field="a.\udfff", metadata={"n\ud800": "v\ude00w"}
    )
    assert (error.message, str(error), error.field) == ("no ? é", "no ? é", "a.?")
    assert error.metadata == {"n?": "v?w"}
