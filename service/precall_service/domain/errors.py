"""The error that the service raises on purpose, and the reasons for it.

A ServiceError refuses or ends something. Its `reason` says why and determines the gRPC code.
Reasons mirror `precall.v1.ErrorReason`, whose comments state cause and remedy. Everything in a
ServiceError is sent to the client, so it holds only text that is written for the user. Its texts
quote names, arguments and messages of models and handlers, so they are made encodable here.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from types import MappingProxyType

from precall_service.domain.text import encodable


class Code(enum.Enum):
    """The gRPC status codes that precall uses, by their numbers in google/rpc/code.proto."""

    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    UNAUTHENTICATED = 16


class Reason(enum.Enum):
    """Why something failed: the number on the wire and the gRPC code that goes with it."""

    HANDSHAKE_REQUIRED = (1, Code.INVALID_ARGUMENT)
    HANDSHAKE_REPEATED = (2, Code.INVALID_ARGUMENT)
    FRAME_UNKNOWN = (3, Code.INVALID_ARGUMENT)
    FIELD_INVALID = (4, Code.INVALID_ARGUMENT)
    NOT_SERVED = (5, Code.UNIMPLEMENTED)
    TOO_LARGE = (6, Code.RESOURCE_EXHAUSTED)
    OVERLOADED = (7, Code.RESOURCE_EXHAUSTED)
    LIMIT_REACHED = (8, Code.RESOURCE_EXHAUSTED)
    UNAUTHENTICATED = (9, Code.UNAUTHENTICATED)
    PERMISSION_DENIED = (10, Code.PERMISSION_DENIED)

    CONVERSATION_UNKNOWN = (20, Code.NOT_FOUND)
    CONVERSATION_EXPIRED = (21, Code.ABORTED)
    RESUME_OUT_OF_RANGE = (22, Code.OUT_OF_RANGE)
    TURN_RUNNING = (23, Code.FAILED_PRECONDITION)
    TURN_UNKNOWN = (24, Code.NOT_FOUND)
    TURN_ID_REUSED = (25, Code.ALREADY_EXISTS)
    CONTEXT_WINDOW_EXCEEDED = (26, Code.INVALID_ARGUMENT)
    TURN_TIMEOUT = (27, Code.DEADLINE_EXCEEDED)
    CANCELLED = (28, Code.CANCELLED)
    TEMPLATE_REFUSED = (29, Code.INVALID_ARGUMENT)

    TOOL_NAME_INVALID = (40, Code.INVALID_ARGUMENT)
    TOOL_DUPLICATE = (41, Code.ALREADY_EXISTS)
    TOOL_SCHEMA_INVALID = (42, Code.INVALID_ARGUMENT)
    TOOL_UNKNOWN = (43, Code.NOT_FOUND)
    TOOL_UNAVAILABLE = (44, Code.UNAVAILABLE)
    ARGUMENTS_INVALID = (45, Code.INVALID_ARGUMENT)
    INVOCATION_UNKNOWN = (46, Code.NOT_FOUND)
    RESULT_INVALID = (47, Code.INVALID_ARGUMENT)
    TOOL_TIMEOUT = (48, Code.DEADLINE_EXCEEDED)
    APPROVAL_UNKNOWN = (49, Code.NOT_FOUND)
    TOOL_CHOICE_INVALID = (50, Code.INVALID_ARGUMENT)
    TOOL_FAILED = (51, Code.UNKNOWN)
    CALL_LOST = (52, Code.ABORTED)
    CALL_MISSING = (53, Code.ABORTED)
    CALL_STOPPED = (54, Code.INVALID_ARGUMENT)

    ENGINE_UNAVAILABLE = (60, Code.UNAVAILABLE)
    ENGINE_FAILED = (61, Code.INTERNAL)
    DRAINING = (62, Code.UNAVAILABLE)
    INTERNAL = (63, Code.INTERNAL)
    FLOW_LIMIT = (64, Code.RESOURCE_EXHAUSTED)

    CACHE_VERSION_MISMATCH = (80, Code.ABORTED)
    CACHE_STORE_UNAVAILABLE = (81, Code.UNAVAILABLE)
    CACHE_RESOURCE_CHANGED = (82, Code.ABORTED)
    CACHE_ENTRY_UNKNOWN = (83, Code.NOT_FOUND)

    @property
    def number(self) -> int:
        """The number of this reason in `precall.v1.ErrorReason`."""
        return self.value[0]

    @property
    def code(self) -> Code:
        """The gRPC code that goes with the reason."""
        return self.value[1]


class ServiceError(Exception):
    """Something was refused or ended for a reason that the user can act on.

    Attributes:
        reason: Why it was refused or ended; determines the gRPC code.
        message: For the user: what was wrong, where, the limit, and what to do.
        field: The path of the offending field, such as `start_turn.content`; may be empty.
        retry_after_s: Seconds after which a retry may succeed; None if a retry does not help.
        metadata: The values in the message, for programs.
    """

    def __init__(
        self,
        reason: Reason,
        message: str,
        *,
        field: str = "",
        retry_after_s: float | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        message = encodable(message)
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.field = encodable(field)
        self.retry_after_s = retry_after_s
        self.metadata: Mapping[str, str] = MappingProxyType(
            {encodable(name): encodable(value) for name, value in (metadata or {}).items()}
        )

    def copy(self) -> ServiceError:
        """Returns an equal error, which has not been raised.

        It is what to keep: the traceback of one that was raised refers to all that its frames do.
        """
        return ServiceError(
            self.reason,
            self.message,
            field=self.field,
            retry_after_s=self.retry_after_s,
            metadata=self.metadata,
        )

    @property
    def code(self) -> Code:
        """The gRPC code that goes with the reason."""
        return self.reason.code

    @property
    def label(self) -> str:
        """Reason and field, for a log: the message may quote what people, models or tools said."""
        return f"{self.reason.name} at {self.field}" if self.field else self.reason.name

    def __repr__(self) -> str:
        return f"ServiceError({self.reason.name}, {self.message!r})"
