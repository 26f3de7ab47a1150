"""The way to a process that holds handlers, and what travels on it."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Protocol

from precall_service.domain.turn import TraceContext


@dataclass(frozen=True, slots=True, kw_only=True)
class Invocation:
    """One run of a handler, as it is asked for. Both ids are made by the dispatcher.

    `arguments_json` is a JSON object that has passed the tool's input schema; `timeout_s` counts
    from the handler's receipt.
    """

    invocation_id: str
    execution_id: str
    call_id: str
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
    """The way to one process that holds handlers; told apart by identity, and held weakly.

    Both methods return once the frame is accepted for sending, wait for room until then, and do
    all or nothing: when one raises or is cancelled, the frame is not and will never be sent. What
    the process answers comes to `Dispatcher.deliver` and `.progress`; its loss to `.link_lost`.
    """

    async def invoke(self, invocation: Invocation) -> None:
        """Asks the process to run a handler.

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
