"""Checks everything that the server sends: each error, and the order of events."""

from __future__ import annotations

from dataclasses import dataclass

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from precall.v1 import agent_pb2, content_pb2, error_pb2, turn_pb2
from precall_service.domain.errors import Reason

_CODES = {code.value[0]: code for code in grpc.StatusCode}
_DETAILS = {f"google.rpc.{kind.__name__}": kind for kind in (ErrorInfo, BadRequest, RetryInfo)}
_PREFIX = "ERROR_REASON_"
INTERNALS = ("Traceback", 'File "', ".py", "precall_service", "site-packages", " object at 0x")
"""Texts that would reveal the server's internals."""


def said(*texts: str) -> list[content_pb2.ContentPart]:
    """Content with one part for each text."""
    return [content_pb2.ContentPart(text=text) for text in texts]


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """An error as a client reads it. `field` is empty if the error names no field."""

    code: grpc.StatusCode
    reason: str
    message: str
    field: str
    retry_after_s: float | None
    metadata: dict[str, str]


def failure(status: Status) -> Failure:
    """Reads an error. Checks that it has one ErrorInfo, with our domain and a known reason."""
    found: dict[type[Message], Message] = {}
    for detail in status.details:
        kind = _DETAILS[detail.TypeName()]
        assert kind not in found, f"two {kind.__name__}"
        found[kind] = message = kind()
        assert detail.Unpack(message)
    info = found[ErrorInfo]
    assert isinstance(info, ErrorInfo)
    assert info.domain == "precall"
    assert info.reason in error_pb2.ErrorReason.keys()  # noqa: SIM118 - an enum, not a mapping
    assert info.reason != "ERROR_REASON_UNSPECIFIED"
    reason = info.reason.removeprefix(_PREFIX)
    assert status.code == Reason[reason].code.value
    assert status.message
    assert not [word for word in INTERNALS if word in status.message], status.message
    return Failure(
        code=_CODES[status.code],
        reason=reason,
        message=status.message,
        field=_field(found.get(BadRequest)),
        retry_after_s=_retry_after(found.get(RetryInfo)),
        metadata=dict(info.metadata),
    )


def _field(request: Message | None) -> str:
    if not isinstance(request, BadRequest):
        return ""
    [violation] = request.field_violations
    assert violation.field
    assert violation.description
    return violation.field


def _retry_after(info: Message | None) -> float | None:
    if not isinstance(info, RetryInfo):
        return None
    assert seconds(info.retry_delay) > 0
    return seconds(info.retry_delay)


def seconds(duration: Duration) -> float:
    """A duration in seconds."""
    return duration.ToNanoseconds() / 1e9


# Frames that belong to a turn.
_OF_TURN = {
    "turn_queued",
    "turn_started",
    "step_started",
    "text_delta",
    "reasoning_delta",
    "tool_call_started",
    "tool_call_arguments_delta",
    "tool_call_ready",
    "tool_call_progress",
    "tool_call_completed",
    "step_completed",
    "turn_completed",
    "invoke",
    "prediction_proposed",
    "prediction_launched",
    "prediction_ready",
    "prediction_confirmed",
    "prediction_discarded",
}


class Rules:
    """Checks that a stream's events come in the order that the contract promises."""

    def __init__(self) -> None:
        self._sent = 0
        self._sequence = 0
        self._acknowledged = 0
        self._opened = False
        self._completed: set[str] = set()
        self._steps: dict[str, int] = {}
        self._step_open = False
        self._open_calls: dict[str, str] = {}
        """The calls that have not ended, with their arguments so far."""
        self._calls: set[str] = set()
        self._invocations: set[str] = set()
        self._predictions: set[str] = set()
        self._open_predictions: set[str] = set()

    def sent(self, sequence: int) -> None:
        """Notes that the client sent the frame with this number."""
        self._sent = max(self._sent, sequence)

    def check(self, frame: agent_pb2.ConverseResponse) -> None:
        """Checks the next frame of the server."""
        assert frame.sequence == self._sequence + 1
        self._sequence = frame.sequence
        assert self._acknowledged <= frame.acknowledged <= self._sent
        self._acknowledged = frame.acknowledged
        kind = frame.WhichOneof("event")
        assert kind is not None
        assert (kind == "opened") != self._opened
        self._opened = True
        assert bool(frame.turn_id) == (kind in _OF_TURN)
        if kind in _OF_TURN and kind != "turn_completed":
            assert frame.turn_id not in self._completed, f"{kind} after the end of the turn"
        self._check_step(frame)
        self._check_call(frame)
        self._check_prediction(frame)
        if kind == "turn_completed":
            self._check_end(frame)

    def _check_step(self, frame: agent_pb2.ConverseResponse) -> None:
        match frame.WhichOneof("event"):
            case "step_started":
                assert not self._step_open
                assert not self._open_calls
                assert frame.step_started.step == self._steps.get(frame.turn_id, -1) + 1
                self._steps[frame.turn_id] = frame.step_started.step
                self._step_open = True
            case "text_delta" | "reasoning_delta" | "tool_call_started":
                assert self._step_open
            case "step_completed":
                assert self._step_open
                assert frame.step_completed.step == self._steps[frame.turn_id]
                assert frame.step_completed.finish_reason != 0
                self._step_open = False
            case _:
                pass

    def _check_call(self, frame: agent_pb2.ConverseResponse) -> None:
        match frame.WhichOneof("event"):
            case "tool_call_started":
                call_id = frame.tool_call_started.call_id
                assert call_id not in self._calls
                self._calls.add(call_id)
                self._open_calls[call_id] = ""
            case "tool_call_arguments_delta":
                delta = frame.tool_call_arguments_delta
                self._open_calls[delta.call_id] += delta.json_fragment
            case "tool_call_ready":
                ready = frame.tool_call_ready
                assert self._open_calls[ready.call_id] == ready.arguments_json
            case "tool_call_progress":
                assert frame.tool_call_progress.call_id in self._open_calls
            case "invoke":
                of_prediction = bool(frame.invoke.prediction_id) and not frame.invoke.call_id
                assert of_prediction or frame.invoke.call_id in self._open_calls
                assert frame.invoke.invocation_id not in self._invocations
                self._invocations.add(frame.invoke.invocation_id)
            case "tool_call_completed":
                self._check_call_end(frame.tool_call_completed)
            case _:
                pass

    def _check_prediction(self, frame: agent_pb2.ConverseResponse) -> None:
        match frame.WhichOneof("event"):
            case "prediction_proposed":
                name = frame.prediction_proposed.prediction_id
                assert name not in self._predictions
                self._predictions.add(name)
                self._open_predictions.add(name)
            case "prediction_launched":
                assert frame.prediction_launched.prediction_id in self._open_predictions
            case "prediction_ready":
                assert frame.prediction_ready.prediction_id in self._open_predictions
            case "prediction_confirmed":
                self._open_predictions.remove(frame.prediction_confirmed.prediction_id)
            case "prediction_discarded":
                assert frame.prediction_discarded.reason != 0
                self._open_predictions.remove(frame.prediction_discarded.prediction_id)
            case _:
                pass

    def _check_call_end(self, ended: turn_pb2.ToolCallCompleted) -> None:
        del self._open_calls[ended.call_id]
        has_result = ended.outcome == turn_pb2.TOOL_CALL_OUTCOME_RESULT
        assert bool(ended.result_json) == has_result
        assert ended.HasField("error") != has_result
        early = turn_pb2.RESULT_SOURCE_SPECULATIVE
        ran = early if ended.prediction_id else turn_pb2.RESULT_SOURCE_COMMITTED
        assert ended.source == (ran if has_result else 0)
        if not has_result:
            failure(ended.error)

    def _check_end(self, frame: agent_pb2.ConverseResponse) -> None:
        ended = frame.turn_completed
        assert not self._open_calls
        assert not self._open_predictions
        assert not self._step_open
        assert ended.outcome != 0
        if ended.outcome in {
            turn_pb2.TURN_OUTCOME_FAILED,
            turn_pb2.TURN_OUTCOME_LIMIT,
            turn_pb2.TURN_OUTCOME_NO_CALL,
        }:
            assert ended.HasField("error")
        if ended.outcome == turn_pb2.TURN_OUTCOME_ANSWERED:
            assert not ended.HasField("error")
        if ended.HasField("error"):
            failure(ended.error)
        self._completed.add(frame.turn_id)
