"""The enums that are not generated have the same members as those of the contract."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import pytest
from google.rpc import code_pb2

from precall.v1 import agent_pb2, error_pb2, generation_pb2
from precall_service.domain.errors import Code, Reason
from precall_service.domain.turn import ToolChoiceMode
from precall_service.engine.supervisor import EngineState

PROTO = Path(__file__).resolve().parents[3] / "proto" / "precall" / "v1"


def members(prefix: str, items: Iterable[tuple[str, int]]) -> dict[str, int]:
    """Returns the names without their prefix, and the numbers; leaves out the unset value."""
    values = {name.removeprefix(prefix): number for name, number in items}
    assert values.pop("UNSPECIFIED") == 0
    return values


def test_engine_states_have_the_names_and_numbers_of_the_contract() -> None:
    contract = members("ENGINE_STATE_", agent_pb2.EngineState.items())
    assert {state.name: state.value for state in EngineState} == contract


def test_tool_choices_have_the_names_of_the_contract() -> None:
    contract = members("TOOL_CHOICE_MODE_", generation_pb2.ToolChoiceMode.items())
    assert {mode.name for mode in ToolChoiceMode} == set(contract)


def test_reasons_have_the_names_and_numbers_of_the_contract() -> None:
    contract = members("ERROR_REASON_", error_pb2.ErrorReason.items())
    assert {reason.name: reason.number for reason in Reason} == contract


def test_codes_are_those_of_google_rpc() -> None:
    assert {code.name: code.value for code in Code}.items() <= dict(code_pb2.Code.items()).items()


def documented_codes() -> dict[str, str]:
    """Returns for each reason the code that its comment in the contract begins with."""
    text = (PROTO / "error.proto").read_text(encoding="utf-8")
    commented = re.compile(r"((?:^ +//.*\n)+) +ERROR_REASON_(\w+) = \d+;", re.M)
    return {
        name: comment.replace("//", "").split()[0].rstrip(".,")
        for comment, name in commented.findall(text)
        if name != "UNSPECIFIED"
    }


@pytest.mark.parametrize("reason", Reason, ids=lambda reason: reason.name)
def test_a_reason_has_the_code_that_the_contract_documents(reason: Reason) -> None:
    assert documented_codes()[reason.name] == reason.code.name
