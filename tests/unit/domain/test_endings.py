"""The text that the model reads about each ending."""

from __future__ import annotations

import json

import pytest

from precall_service.domain.endings import InvocationEnding, model_text
from precall_service.domain.errors import Reason, ServiceError
from precall_service.domain.events import ToolCallOutcome


@pytest.mark.parametrize(
    ("result_json", "text"),
    [
        ('{"a": 1}', '{"a": 1}'),
        ("null", "null"),
        ("3", "3"),
        ('"18 °C\\nsunny"', "18 °C\nsunny"),
        (' "x" ', "x"),
        ('""', ""),
        ('["\\ud800"]', '["\\ud800"]'),
        ('"half \\ud800"', "half ?"),
    ],
)
def test_results_stay_as_they_are_except_strings(result_json: str, text: str) -> None:
    ending = InvocationEnding.of_result(result_json)
    assert ending.outcome is ToolCallOutcome.RESULT
    assert model_text(ending) == text
    text.encode()


@pytest.mark.parametrize(
    ("reason", "outcome"),
    [
        (Reason.TOOL_TIMEOUT, ToolCallOutcome.TIMEOUT),
        (Reason.TOOL_UNAVAILABLE, ToolCallOutcome.UNAVAILABLE),
        (Reason.CANCELLED, ToolCallOutcome.CANCELLED),
        (Reason.ARGUMENTS_INVALID, ToolCallOutcome.ERROR),
        (Reason.TOO_LARGE, ToolCallOutcome.ERROR),
    ],
)
def test_an_error_is_one_json_object(reason: Reason, outcome: ToolCallOutcome) -> None:
    ending = InvocationEnding.of_error(ServiceError(reason, "why"))
    assert ending.outcome is outcome
    assert json.loads(model_text(ending)) == {
        "error": {"type": reason.name.lower(), "message": "why"}
    }


def test_a_handler_error_has_the_type_that_the_handler_gave() -> None:
    error = ServiceError(
        Reason.TOOL_FAILED, "no such city", metadata={"handler_error_type": "LookupError"}
    )
    assert model_text(InvocationEnding.of_error(error)) == (
        '{"error":{"type":"LookupError","message":"no such city"}}'
    )
