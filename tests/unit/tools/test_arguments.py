"""What a handler may be given, and what the model is told of arguments that no handler gets."""

from __future__ import annotations

import pytest

from precall_service.domain.endings import InvocationEnding, model_text
from precall_service.domain.errors import Reason, ServiceError
from precall_service.tools.arguments import check_arguments
from precall_service.tools.checks import Checks
from precall_service.tools.declarations import ToolProposal, declare
from precall_service.tools.toolset import RegisteredTool
from tests.support.at_once import at_once
from tests.support.links import RecordingLink
from tests.support.tools import CITY_SCHEMA, new_toolset, tool_limits

LIMITS = tool_limits()


def tool(input_schema_json: str = CITY_SCHEMA) -> RegisteredTool:
    toolset = new_toolset(RecordingLink(), LIMITS)
    proposal = ToolProposal(name="weather", input_schema_json=input_schema_json)
    toolset.add(declare(proposal, LIMITS))
    [registered] = toolset.snapshot()
    return registered


def refusal(arguments_json: str, input_schema_json: str = CITY_SCHEMA) -> ServiceError:
    with pytest.raises(ServiceError) as caught:
        at_once(check_arguments(tool(input_schema_json), arguments_json, LIMITS, Checks()))
    return caught.value


def test_checked_arguments_are_returned() -> None:
    arguments = at_once(check_arguments(tool(), '{"city":"Rome","days":2}', LIMITS, Checks()))
    assert arguments == {"city": "Rome", "days": 2}


@pytest.mark.parametrize("city", ["\\ud83d\\ude00", "\U0001f600"])
def test_a_whole_surrogate_pair_is_a_character(city: str) -> None:
    found = at_once(check_arguments(tool(), f'{{"city":"{city}"}}', LIMITS, Checks()))
    assert found == {"city": "\U0001f600"}


@pytest.mark.parametrize(
    ("arguments_json", "place"),
    [
        ('{"city":"a\\ud800b"}', "arguments.city:"),
        ('{"city":"\\uDE00"}', "arguments.city:"),
        ('{"city":"\ud800"}', "arguments.city:"),
        ('{"city":"Rome","a b":[1,{"c":"\\udfff"}]}', "arguments['a b'][1].c:"),
        ('{"city":"Rome","\\ud800":1}', "a name in arguments:"),
        ('{"city":5,"x":["\\ud800"]}', "arguments.x[0]:"),
    ],
)
def test_half_of_a_surrogate_pair_is_refused_in_words_for_the_model(
    arguments_json: str, place: str
) -> None:
    for schema in (CITY_SCHEMA, '{"type":"object"}'):
        error = refusal(arguments_json, schema)
        assert error.reason is Reason.ARGUMENTS_INVALID
        assert error.message == (
            f"{place} holds half of a surrogate pair, which is not a character; write the whole"
            " character, or leave it out"
        )
        model_text(InvocationEnding.of_error(error)).encode()


def test_what_is_quoted_of_bad_arguments_can_be_encoded() -> None:
    error = refusal("{\ud800}")
    assert error.reason is Reason.ARGUMENTS_INVALID
    error.message.encode()
