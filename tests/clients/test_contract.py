"""The client's values mirror the contract, and every omission is deliberate."""

from __future__ import annotations

import enum

import pytest
from google.protobuf.descriptor import EnumDescriptor

import precall
from precall import _events_in, _frames
from precall.v1 import agent_pb2, prediction_pb2, turn_pb2


def test_an_event_of_a_newer_server_is_skipped() -> None:
    unknown_field = b"\xfa\x3e\x02\x08\x01"  # field 1007, a message
    assert _events_in.event(agent_pb2.ConverseResponse.FromString(unknown_field)) is None


def test_an_event_that_is_not_of_a_turn_is_skipped() -> None:
    frame = agent_pb2.ConverseResponse()
    frame.go_away.message = "bye"
    assert _events_in.event(frame) is None


def test_a_value_of_a_newer_server_is_unknown() -> None:
    outcome = b"\x10\xe7\x24"  # field 2, the number 4711
    ended = turn_pb2.ToolCallCompleted.FromString(outcome)
    event = _events_in.event(agent_pb2.ConverseResponse(tool_call_completed=ended))
    assert isinstance(event, precall.ToolCallCompleted)
    assert event.outcome is precall.ToolCallOutcome.UNKNOWN


@pytest.mark.parametrize(
    ("ours", "wire"),
    [
        (precall.Capability, agent_pb2.Capability.DESCRIPTOR),
        (precall.EngineState, agent_pb2.EngineState.DESCRIPTOR),
        (precall.SpeculationMode, prediction_pb2.SpeculationMode.DESCRIPTOR),
    ],
)
def test_enums_mirror_the_contract(ours: type[enum.Enum], wire: EnumDescriptor) -> None:
    found = {_frames.member(ours, wire, value.number) for value in wire.values}
    assert found == set(ours)
    assert _frames.member(ours, wire, 4711) is ours["UNKNOWN"]
