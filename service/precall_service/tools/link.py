"""The way to a process that holds handlers, and what travels on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from precall_service.domain.errors import ServiceError
from precall_service.domain.events import InvocationCancelReason, Invoke


@dataclass(frozen=True, slots=True)
class HandlerResult:
    """The handler returned: any JSON, not checked yet.

    `content` is text that the model is to see in place of the JSON; empty: the JSON.
    """

    result_json: str
    content: str = ""


@dataclass(frozen=True, slots=True)
class HandlerUnusable:
    """The handler returned what this server cannot take, for this reason."""

    error: ServiceError


@dataclass(frozen=True, slots=True)
class HandlerError:
    """The handler failed, in words that the model may read. `type` may be empty."""

    type: str
    message: str


@dataclass(frozen=True, slots=True)
class HandlerCancelled:
    """The handler stopped before it had a result."""


HandlerAnswer = HandlerResult | HandlerUnusable | HandlerError | HandlerCancelled


class HandlerLink(Protocol):
    """The way to one process that holds handlers. The dispatcher compares links by identity.

    Each method returns once the frame has been accepted for sending, and waits for room until
    then. It does all or nothing: when it raises or is cancelled, the frame is never sent. Answers
    of the process go to `Dispatcher.deliver` and `.progress`, its loss to `.link_lost`.
    """

    async def invoke(self, invocation: Invoke) -> None:
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

    async def cancel(self, invocation_id: str, reason: InvocationCancelReason) -> None:
        """Tells the process that a run is no longer wanted.

        Raises:
            ServiceError: TOOL_UNAVAILABLE, the process is gone.
        """
        ...
