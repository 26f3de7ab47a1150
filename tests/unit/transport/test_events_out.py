"""Every event becomes its frame, and seconds become Durations."""

from __future__ import annotations

import typing

import pytest

from precall.v1 import agent_pb2, turn_pb2
from precall_service.agent.outbox import NumberedEvent
from precall_service.domain import events
from precall_service.domain.errors import Reason, ServiceError
from precall_service.domain.events import ConversationEvent, TokenUsage, ToolCallOutcome, TurnReport
from precall_service.transport.events_out import converse_response, turn_report
from precall_service.transport.fields import duration

ERROR = ServiceError(Reason.TOOL_TIMEOUT, "too slow")
USAGE = TokenUsage(input_tokens=4, cached_tokens=3, output_tokens=2, reasoning_tokens=1)
REPORT = TurnReport(
    wall_time_s=6.0,
    queue_time_s=0.5,
    time_to_first_token_s=None,
    generation_time_s=2.0,
    tool_time_exposed_s=3.0,
    continuation_time_s=0.25,
    steps=2,
    tool_calls=1,
    usage=USAGE,
)


def framed(event: ConversationEvent) -> agent_pb2.ConverseResponse:
    return converse_response(NumberedEvent(7, "t", event), acknowledged=5)


def test_the_events_of_a_turn_are_events_of_a_conversation() -> None:
    assert set(typing.get_args(events.TurnEvent)) <= set(typing.get_args(ConversationEvent))


@pytest.mark.parametrize("kind", typing.get_args(ConversationEvent))
def test_an_event_becomes_its_frame(kind: type[ConversationEvent]) -> None:
    frame = framed(kind())
    oneof = frame.WhichOneof("event") or ""
    assert type(getattr(frame, oneof)).__name__ == kind.__name__
    assert (frame.sequence, frame.acknowledged, frame.turn_id) == (7, 5, "t")
    assert agent_pb2.ConverseResponse.FromString(frame.SerializeToString()) == frame


@pytest.mark.parametrize("kind", ["text_delta", "reasoning_delta"])
def test_an_empty_piece_is_still_a_frame(kind: str) -> None:
    pieces = {"text_delta": events.TextDelta(""), "reasoning_delta": events.ReasoningDelta("")}
    assert framed(pieces[kind]).WhichOneof("event") == kind


@pytest.mark.parametrize(
    "outcome", [outcome for outcome in ToolCallOutcome if outcome.name != "RESULT"]
)
def test_a_call_without_a_result_says_why(outcome: ToolCallOutcome) -> None:
    frame = framed(events.ToolCallCompleted("c", outcome, "", ERROR, 0.5)).tool_call_completed
    assert frame.outcome == outcome.value
    assert frame.error.message == "too slow"
    assert frame.source == turn_pb2.RESULT_SOURCE_UNSPECIFIED


def test_progress_without_a_fraction_leaves_it_unset() -> None:
    progress = framed(events.ToolCallProgress("c", "m", None)).tool_call_progress
    assert not progress.HasField("fraction")
    progress = framed(events.ToolCallProgress("c", "m", 0.0)).tool_call_progress
    assert progress.HasField("fraction")


def test_a_report_without_a_first_token_leaves_its_time_unset() -> None:
    frame = turn_report(REPORT)
    assert not frame.HasField("time_to_first_token")
    assert frame.wall_time == duration(6.0)
    assert frame.usage.reasoning_tokens == 1


@pytest.mark.parametrize(
    ("seconds", "nanoseconds"),
    [
        (0.0, 0),
        (-0.0, 0),
        (1e-10, 0),
        (6e-10, 1),
        (-1.5, -1_500_000_000),
        (0.1, 100_000_000),
        (1e6, 10**15),
        (1e9 + 0.5, 1_000_000_000_500_000_000),
    ],
)
def test_times_are_rounded_to_nanoseconds(seconds: float, nanoseconds: int) -> None:
    value = duration(seconds)
    assert value.ToNanoseconds() == nanoseconds
    assert value.seconds * value.nanos >= 0, "both have the same sign"
