"""Every event has its frame, and times have theirs."""

from __future__ import annotations

import typing

import pytest

from precall.v1 import agent_pb2, turn_pb2
from precall_service.agent import outbox
from precall_service.agent.outbox import ConversationEvent, NumberedEvent
from precall_service.domain import events
from precall_service.domain.errors import Reason, ServiceError
from precall_service.domain.turn import (
    CallOutcome,
    StepFinish,
    TokenUsage,
    TraceContext,
    TurnOutcome,
    TurnReport,
)
from precall_service.tools.link import CancelReason, Invocation
from precall_service.tools.toolset import Registration
from precall_service.transport.frames_out import converse_response, duration, report

ERROR = ServiceError(Reason.TOOL_TIMEOUT, "too slow")
USAGE = TokenUsage(input_tokens=4, cached_tokens=3, output_tokens=2, reasoning_tokens=1)
REPORT = TurnReport(
    wall_s=6.0,
    queue_s=0.5,
    time_to_first_token_s=None,
    generation_s=2.0,
    tool_exposed_s=3.0,
    continuation_s=0.25,
    steps=2,
    tool_calls=1,
    usage=USAGE,
)
INVOCATION = Invocation(
    invocation_id="i",
    execution_id="e",
    call_id="c",
    prediction_id="",
    turn_id="t",
    conversation_id="conv",
    tool_name="weather",
    tool_version="1",
    arguments_json="{}",
    timeout_s=2.5,
    trace_context=TraceContext(traceparent="p", tracestate="s"),
)

KINDS: list[tuple[ConversationEvent, str]] = [
    (events.TurnQueued(3), "turn_queued"),
    (events.TurnStarted(0.5), "turn_started"),
    (events.StepStarted(1, 20), "step_started"),
    (events.TextDelta("text"), "text_delta"),
    (events.ReasoningDelta("text"), "reasoning_delta"),
    (events.ToolCallStarted("c", "weather"), "tool_call_started"),
    (events.ToolCallArgumentsDelta("c", "{"), "tool_call_arguments_delta"),
    (events.ToolCallReady("c", "weather", "{}"), "tool_call_ready"),
    (events.ToolCallProgress("c", "half", 0.5), "tool_call_progress"),
    (
        events.ToolCallCompleted("c", CallOutcome.RESULT, "1", None, 0.5),
        "tool_call_completed",
    ),
    (events.StepCompleted(1, StepFinish.STOP, USAGE), "step_completed"),
    (events.TurnCompleted(TurnOutcome.ANSWERED, "text", None, REPORT), "turn_completed"),
    (INVOCATION, "invoke"),
    (outbox.InvocationCancelled("i", CancelReason.TIMEOUT), "cancel_invocation"),
    (outbox.FrameRejected(2, ERROR), "frame_rejected"),
    (outbox.ToolsRegistered(2, (Registration(name="a", version="1"),)), "tools_registered"),
    (outbox.ToolsWithdrawn(2, ("a",), ("b",)), "tools_withdrawn"),
    (outbox.GoAway(5.0, "bye"), "go_away"),
]


def framed(event: ConversationEvent) -> agent_pb2.ConverseResponse:
    return converse_response(NumberedEvent(7, "t", event), acknowledged=5)


def test_every_event_is_tried() -> None:
    assert {type(event) for event, _ in KINDS} == set(typing.get_args(ConversationEvent))
    assert set(typing.get_args(events.TurnEvent)) <= set(typing.get_args(ConversationEvent))


@pytest.mark.parametrize(("event", "kind"), KINDS, ids=[kind for _, kind in KINDS])
def test_an_event_has_its_frame(event: ConversationEvent, kind: str) -> None:
    frame = framed(event)
    assert frame.WhichOneof("event") == kind
    assert (frame.sequence, frame.acknowledged, frame.turn_id) == (7, 5, "t")
    assert agent_pb2.ConverseResponse.FromString(frame.SerializeToString()) == frame


@pytest.mark.parametrize("kind", ["text_delta", "reasoning_delta"])
def test_an_empty_piece_is_still_a_frame(kind: str) -> None:
    pieces = {"text_delta": events.TextDelta(""), "reasoning_delta": events.ReasoningDelta("")}
    assert framed(pieces[kind]).WhichOneof("event") == kind


@pytest.mark.parametrize(
    "outcome", [outcome for outcome in CallOutcome if outcome.name != "RESULT"]
)
def test_a_call_without_a_result_says_why(outcome: CallOutcome) -> None:
    frame = framed(events.ToolCallCompleted("c", outcome, "", ERROR, 0.5)).tool_call_completed
    assert frame.outcome == outcome.value
    assert frame.error.message == "too slow"
    assert frame.source == turn_pb2.RESULT_SOURCE_UNSPECIFIED


def test_progress_without_a_fraction_leaves_it_unset() -> None:
    progress = framed(events.ToolCallProgress("c", "m", None)).tool_call_progress
    assert not progress.HasField("fraction")
    progress = framed(events.ToolCallProgress("c", "m", 0.0)).tool_call_progress
    assert progress.HasField("fraction")


def test_a_report_says_nothing_of_a_first_token_that_never_came() -> None:
    frame = report(REPORT)
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
    assert value.seconds * value.nanos >= 0, "one sign for both"
