"""The client's values mirror the contract, and every omission is deliberate."""

from __future__ import annotations

import enum

import pytest
from google.protobuf.descriptor import EnumDescriptor

import precall
from precall import _frames
from precall.v1 import agent_pb2, turn_pb2

EVENTS = [field.name for field in agent_pb2.ConverseResponse.DESCRIPTOR.oneofs[0].fields]
HANDLED_BY_THE_CONVERSATION = {
    "opened",
    "frame_rejected",
    "tools_registered",
    "tools_withdrawn",
    "invoke",
    "cancel_invocation",
    "acknowledge",
    "go_away",
}
NOT_YET = {
    "approval_requested",
    "approval_resolved",
    "prediction_proposed",
    "prediction_launched",
    "prediction_ready",
    "prediction_confirmed",
    "prediction_discarded",
}


@pytest.mark.parametrize(
    "name", [f.name for f in agent_pb2.ConverseResponse.DESCRIPTOR.oneofs[0].fields]
)
def test_every_event_is_known_or_skipped_on_purpose(name: str) -> None:
    frame = agent_pb2.ConverseResponse()
    getattr(frame, name).SetInParent()
    skipped = name in HANDLED_BY_THE_CONVERSATION | NOT_YET
    assert (_frames.event(frame) is None) == skipped


def test_an_event_of_a_newer_server_is_skipped() -> None:
    unknown_field = b"\xfa\x3e\x02\x08\x01"  # field 1007, a message
    assert _frames.event(agent_pb2.ConverseResponse.FromString(unknown_field)) is None


@pytest.mark.parametrize(
    ("ours", "wire"),
    [
        (precall.ToolCallOutcome, turn_pb2.ToolCallOutcome.DESCRIPTOR),
        (precall.ResultSource, turn_pb2.ResultSource.DESCRIPTOR),
        (precall.StepFinishReason, turn_pb2.StepFinishReason.DESCRIPTOR),
        (precall.TurnOutcome, turn_pb2.TurnOutcome.DESCRIPTOR),
        (precall.Capability, agent_pb2.Capability.DESCRIPTOR),
        (precall.EngineState, agent_pb2.EngineState.DESCRIPTOR),
    ],
)
def test_enums_mirror_the_contract(ours: type[enum.Enum], wire: EnumDescriptor) -> None:
    found = {_frames.member(ours, wire, value.number) for value in wire.values}
    assert found == set(ours)
    assert _frames.member(ours, wire, 4711) is ours["UNKNOWN"]


def test_the_report_mirrors_the_contract() -> None:
    ours = {name.removesuffix("_s") for name in precall.TurnReport.__slots__}
    assert ours == {field.name for field in turn_pb2.TurnReport.DESCRIPTOR.fields}
