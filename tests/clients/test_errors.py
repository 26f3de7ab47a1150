"""Statuses become typed errors by reason."""

from __future__ import annotations

import pickle

import grpc
import pytest
from google.rpc.status_pb2 import Status

import precall
from precall import _errors
from precall.testing._status import status
from precall.v1 import error_pb2

REASONS = [
    name.removeprefix("ERROR_REASON_")
    for name, _ in error_pb2.ErrorReason.items()
    if not name.endswith("_UNSPECIFIED")
]


@pytest.mark.parametrize("reason", REASONS)
def test_every_reason_has_a_class_and_a_code(reason: str) -> None:
    error = _errors.from_status(status(reason, "what happened", 1.5))
    assert error.reason == reason
    assert error.code is not grpc.StatusCode.UNKNOWN or reason == "TOOL_FAILED"
    assert (error.message, str(error)) == ("what happened", "what happened")
    assert error.retry_after_s == 1.5
    plain = {"CANCELLED", "CACHE_ENTRY_UNKNOWN"}
    assert type(error) is not precall.PrecallError or reason in plain


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("CONTEXT_WINDOW_EXCEEDED", precall.ContextWindowExceededError),
        ("ENGINE_UNAVAILABLE", precall.EngineUnavailableError),
        ("OVERLOADED", precall.OverloadedError),
        ("DRAINING", precall.UnavailableError),
        ("TOOL_SCHEMA_INVALID", precall.ToolRejectedError),
        ("TURN_RUNNING", precall.TurnRunningError),
        ("TURN_TIMEOUT", precall.LimitReachedError),
        ("NOT_SERVED", precall.NotServedError),
        ("CONVERSATION_EXPIRED", precall.ConversationUnknownError),
        ("TOO_LARGE", precall.TooLargeError),
        ("CALL_LOST", precall.NoCallError),
        ("CALL_MISSING", precall.NoCallError),
        ("CALL_STOPPED", precall.NoCallError),
    ],
)
def test_reasons_choose_the_class(reason: str, kind: type[precall.PrecallError]) -> None:
    assert type(_errors.from_status(status(reason, "x"))) is kind


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.UNAVAILABLE, precall.UnavailableError),
        (grpc.StatusCode.INVALID_ARGUMENT, precall.InvalidArgumentError),
        (grpc.StatusCode.DATA_LOSS, precall.PrecallError),
    ],
)
def test_without_a_known_reason_the_code_chooses(
    code: grpc.StatusCode, kind: type[precall.PrecallError]
) -> None:
    error = _errors.from_status(Status(code=code.value[0], message="x"))
    assert type(error) is kind
    assert (error.reason, error.code, error.retry_after_s) == ("", code, None)


def test_metadata_holds_the_variables() -> None:
    error = _errors.from_status(status("TOO_LARGE", "x", None, limit="10"))
    assert dict(error.metadata) == {"limit": "10"}
    assert repr(error) == "TooLargeError(TOO_LARGE: x)"


def test_errors_travel_between_processes() -> None:
    error = _errors.from_status(status("OVERLOADED", "x", 2.0, limit="10"))
    error.add_note("a note")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is precall.OverloadedError
    assert vars(copy) == vars(error)
    assert str(copy) == "x"


def test_the_tree_at_the_top_of_the_file_is_whole() -> None:
    drawn = _errors.__doc__ or ""
    kinds = [
        value
        for value in vars(_errors).values()
        if isinstance(value, type) and issubclass(value, precall.PrecallError)
    ]
    assert not [kind.__name__ for kind in kinds if kind.__name__ not in drawn]
    assert not [kind.__name__ for kind in kinds if kind.__name__ not in precall.__all__]
