"""The way to a process that holds handlers, and what travels on it."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Protocol

from precall_service.domain.turn import TraceContext


@dataclass(frozen=True, slots=True, kw_only=True)
class Invocation:
    """One run of a handler, as it is asked for. The dispatcher makes the first two ids.

    `call_id` is the call that the run answers; it is empty while the run is speculative.
    `prediction_id` is the prediction that started the run, if one did. `arguments_json` is a JSON
    object that has passed the tool's input schema; `timeout_s` counts from the handler's receipt.
    """

    invocation_id: str
    execution_id: str
    call_id: str
    prediction_id: str
    turn_id: str
    conversation_id: str
    tool_name: str
    tool_version: str
    arguments_json: str
    timeout_s: float
    trace_context: TraceContext


class CancelReason(enum.Enum):
    """Why a run is no longer wanted, by the numbers of `precall.v1.InvocationCancelReason`."""

    TIMEOUT = 1
    TURN_ENDED = 2
    CALL_CANCELLED = 3
    PREDICTION_DISCARDED = 4
    DRAINING = 5


@dataclass(frozen=True, slots=True)
class HandlerResult:
    """The handler returned: any JSON, not checked yet."""

    result_json: str


@dataclass(frozen=True, slots=True)
class HandlerError:
    """The handler failed, in words that the model may read. `type` may be empty."""

    type: str
    message: str


@dataclass(frozen=True, slots=True)
class HandlerCancelled:
    """The handler stopped before it had a result."""


HandlerAnswer = HandlerResult | HandlerError | HandlerCancelled


class HandlerLink(Protocol):
    """The way to one process that holds handlers. The dispatcher compares links by identity.

    Each method returns once the frame has been accepted for sending, and waits for room until
    then. It does all or nothing: when it raises or is cancelled, the frame is never sent. Answers
    of the process go to `Dispatcher.deliver` and `.progress`, its loss to `.link_lost`.
    """

    async def invoke(self, invocation: Invocation) -> None:
        """Asks the process to run a handler.

        Raises:
            ServiceError: TOOL_UNAVAILABLE, the process is gone.
        """
        ...

    async def commit(self, invocation_id: str, call_id: str) -> None:
        """Tells the process that a speculative run now answers a call.

        Raises:
            ServiceError: TOOL_UNAVAILABLE, the process is gone.
        """
        ...

    async def cancel(self, invocation_id: str, reason: CancelReason) -> None:
        """Tells the process that a run is no longer wanted.

        Raises:
            ServiceError: TOOL_UNAVAILABLE, the process is gone.
        """
        ...
