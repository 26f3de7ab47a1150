"""Turns statuses of the server and of gRPC into typed errors, by reason and never by text.

```
Exception
└── PrecallError                     reason, code, message, metadata, retry_after_s
    ├── ConnectError                 no precall server could be reached at that address
    ├── ConnectionLostError          the stream ended under the conversation
    ├── ConversationClosedError      used after close()
    ├── InvalidArgumentError         a field breaks the contract
    │   ├── TooLargeError            over a limit of bytes
    │   └── ContextWindowExceededError   over the model's limit of tokens
    ├── AccessError                  the server does not let this caller do this
    ├── ToolRejectedError            a tool was refused, or there is none of that name
    ├── LimitReachedError            over a limit on what is held, or on what a turn may use
    ├── TurnRunningError             one turn at a time
    ├── NoCallError                  the model meant or had to make a call, and made none
    ├── ConversationUnknownError     unknown, expired, or too old to resume
    ├── CacheConflictError           the tool cache has changed in the meantime; nothing was stored
    ├── NotServedError               this server does not serve it (yet)
    ├── UnavailableError             try again later; retry_after_s says when
    │   ├── OverloadedError          the server is at capacity
    │   └── EngineUnavailableError   the engine is starting or restarting
    ├── ToolCallError                why one call failed; never raised, found on events
    └── ServerError                  a failure of the server or its engine
```
"""

from __future__ import annotations

from collections.abc import Mapping

import grpc
import grpc.aio
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

DOMAIN = "precall"
DETAILS_KEY = "grpc-status-details-bin"  # where gRPC carries a google.rpc.Status

CUT_OFF_RETRY_S = 1.0
"""When to try again after a call that the server ended without a word, in seconds."""

_CODES = {code.value[0]: code for code in grpc.StatusCode}


class PrecallError(Exception):
    """The base of every error of precall.

    Attributes:
        reason: Name of a `precall.v1.ErrorReason` without its prefix, such as `TURN_RUNNING`;
            empty if there is none. Branch on the class or on this, never on the message.
        code: The gRPC status code.
        message: What was wrong, where, the limit, and what to do.
        metadata: The variables of the message, for programs.
        retry_after_s: Seconds after which a retry may succeed. None: retrying does not help.
    """

    def __init__(
        self,
        message: str,
        *,
        reason: str = "",
        code: grpc.StatusCode = grpc.StatusCode.UNKNOWN,
        metadata: Mapping[str, str] | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason
        self.code = code
        self.metadata: Mapping[str, str] = dict(metadata or {})  # picklable, unlike a proxy of it
        self.retry_after_s = retry_after_s

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.reason or self.code.name}: {self.message})"


class ConnectError(PrecallError):
    """No precall server could be reached in time, or the client was closed."""


class ConnectionLostError(PrecallError):
    """The stream ended under the conversation: the connection broke or the server went away.

    If handlers of a running turn had begun, `metadata["begun"]` names their tools, and
    `metadata["called"]` those that may have had effects. The same turn again could repeat them.
    """


class ConversationClosedError(PrecallError):
    """The conversation was closed, or has not been opened yet."""


class InvalidArgumentError(PrecallError):
    """A field breaks the contract; the message names it."""


class TooLargeError(InvalidArgumentError):
    """A text, schema, argument or result has more bytes than its limit."""


class ContextWindowExceededError(InvalidArgumentError):
    """The prompt does not fit the model's context window; the message has the numbers."""


class AccessError(PrecallError):
    """The caller's credentials are missing or invalid, or do not permit this; `code` says which."""


class ToolRejectedError(PrecallError):
    """A tool was refused for its name, schema, size or options; or there is none of that name."""


class LimitReachedError(PrecallError):
    """A limit on what a client may hold (tools, messages) or a turn may use was reached.

    The limits of a turn are not raised: they are on the `Answer` of a turn that ended with LIMIT.
    """


class TurnRunningError(PrecallError):
    """A turn is running in this conversation: wait for its end, or cancel it."""


class NoCallError(PrecallError):
    """The model meant to make a call, or had to make one, but its message contained none.

    `reason` is CALL_LOST (no call could be read from its message; `metadata["stray_call"]` says
    where it was lost), CALL_MISSING (the call that `tool_choice` requires was not made), or
    CALL_STOPPED (a text in `stop` cut it). The conversation stays as it was before the turn, so the
    message can be sent again. If tools with effects had been called, it keeps the finished steps,
    and `metadata["called"]` names these tools.
    """


class ConversationUnknownError(PrecallError):
    """The server no longer has the conversation: open a new one with its history."""


class CacheConflictError(PrecallError):
    """Nothing was put into the tool cache, because something has changed in the meantime.

    With the reason CACHE_RESOURCE_CHANGED, a resource was written since its version was read: read
    the versions, compute the result and put it again. With CACHE_VERSION_MISMATCH, the entry has
    another version than expected: get it and decide again.
    """


class NotServedError(PrecallError):
    """The server does not serve this part of the contract: see `ServerInfo.capabilities`."""


class UnavailableError(PrecallError):
    """A retry may succeed: wait `retry_after_s` seconds and try again."""


class OverloadedError(UnavailableError):
    """The server is at capacity, or this client sent too fast or read too slowly."""


class EngineUnavailableError(UnavailableError):
    """The engine is starting or restarting.

    The conversation stays as it was before the turn. If tools with effects had been called,
    `retry_after_s` is None.
    """


class ToolCallError(PrecallError):
    """Why a tool call ended without a result. The model is told; this is never raised."""


class ServerError(PrecallError):
    """The server or its engine failed; the client is not at fault."""


_BY_REASON: Mapping[str, tuple[type[PrecallError], grpc.StatusCode]] = {
    "HANDSHAKE_REQUIRED": (InvalidArgumentError, grpc.StatusCode.INVALID_ARGUMENT),
    "HANDSHAKE_REPEATED": (InvalidArgumentError, grpc.StatusCode.INVALID_ARGUMENT),
    "FRAME_UNKNOWN": (InvalidArgumentError, grpc.StatusCode.INVALID_ARGUMENT),
    "FIELD_INVALID": (InvalidArgumentError, grpc.StatusCode.INVALID_ARGUMENT),
    "TURN_UNKNOWN": (InvalidArgumentError, grpc.StatusCode.NOT_FOUND),
    "TURN_ID_REUSED": (InvalidArgumentError, grpc.StatusCode.ALREADY_EXISTS),
    "TOOL_CHOICE_INVALID": (InvalidArgumentError, grpc.StatusCode.INVALID_ARGUMENT),
    "INVOCATION_UNKNOWN": (InvalidArgumentError, grpc.StatusCode.NOT_FOUND),
    "APPROVAL_UNKNOWN": (InvalidArgumentError, grpc.StatusCode.NOT_FOUND),
    "TEMPLATE_REFUSED": (InvalidArgumentError, grpc.StatusCode.INVALID_ARGUMENT),
    "UNAUTHENTICATED": (AccessError, grpc.StatusCode.UNAUTHENTICATED),
    "PERMISSION_DENIED": (AccessError, grpc.StatusCode.PERMISSION_DENIED),
    "TOO_LARGE": (TooLargeError, grpc.StatusCode.RESOURCE_EXHAUSTED),
    "CONTEXT_WINDOW_EXCEEDED": (ContextWindowExceededError, grpc.StatusCode.INVALID_ARGUMENT),
    "NOT_SERVED": (NotServedError, grpc.StatusCode.UNIMPLEMENTED),
    "LIMIT_REACHED": (LimitReachedError, grpc.StatusCode.RESOURCE_EXHAUSTED),
    "OVERLOADED": (OverloadedError, grpc.StatusCode.RESOURCE_EXHAUSTED),
    "FLOW_LIMIT": (OverloadedError, grpc.StatusCode.RESOURCE_EXHAUSTED),
    "ENGINE_UNAVAILABLE": (EngineUnavailableError, grpc.StatusCode.UNAVAILABLE),
    "DRAINING": (UnavailableError, grpc.StatusCode.UNAVAILABLE),
    "CONVERSATION_UNKNOWN": (ConversationUnknownError, grpc.StatusCode.NOT_FOUND),
    "CONVERSATION_EXPIRED": (ConversationUnknownError, grpc.StatusCode.ABORTED),
    "RESUME_OUT_OF_RANGE": (ConversationUnknownError, grpc.StatusCode.OUT_OF_RANGE),
    "CANCELLED": (PrecallError, grpc.StatusCode.CANCELLED),
    "TURN_RUNNING": (TurnRunningError, grpc.StatusCode.FAILED_PRECONDITION),
    "TURN_TIMEOUT": (LimitReachedError, grpc.StatusCode.DEADLINE_EXCEEDED),
    "TOOL_NAME_INVALID": (ToolRejectedError, grpc.StatusCode.INVALID_ARGUMENT),
    "TOOL_DUPLICATE": (ToolRejectedError, grpc.StatusCode.ALREADY_EXISTS),
    "TOOL_SCHEMA_INVALID": (ToolRejectedError, grpc.StatusCode.INVALID_ARGUMENT),
    "TOOL_UNKNOWN": (ToolCallError, grpc.StatusCode.NOT_FOUND),
    "TOOL_UNAVAILABLE": (ToolCallError, grpc.StatusCode.UNAVAILABLE),
    "ARGUMENTS_INVALID": (ToolCallError, grpc.StatusCode.INVALID_ARGUMENT),
    "RESULT_INVALID": (ToolCallError, grpc.StatusCode.INVALID_ARGUMENT),
    "TOOL_TIMEOUT": (ToolCallError, grpc.StatusCode.DEADLINE_EXCEEDED),
    "TOOL_FAILED": (ToolCallError, grpc.StatusCode.UNKNOWN),
    "CALL_LOST": (NoCallError, grpc.StatusCode.ABORTED),
    "CALL_MISSING": (NoCallError, grpc.StatusCode.ABORTED),
    "CALL_STOPPED": (NoCallError, grpc.StatusCode.INVALID_ARGUMENT),
    "CACHE_VERSION_MISMATCH": (CacheConflictError, grpc.StatusCode.ABORTED),
    "CACHE_RESOURCE_CHANGED": (CacheConflictError, grpc.StatusCode.ABORTED),
    "CACHE_STORE_UNAVAILABLE": (UnavailableError, grpc.StatusCode.UNAVAILABLE),
    # Never raised: `ToolCache.get` returns None.
    "CACHE_ENTRY_UNKNOWN": (PrecallError, grpc.StatusCode.NOT_FOUND),
    "ENGINE_FAILED": (ServerError, grpc.StatusCode.INTERNAL),
    "INTERNAL": (ServerError, grpc.StatusCode.INTERNAL),
}

# For the reasons of a newer server, and for statuses without a reason.
_BY_CODE: Mapping[grpc.StatusCode, type[PrecallError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidArgumentError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: LimitReachedError,
    grpc.StatusCode.UNAVAILABLE: UnavailableError,
    grpc.StatusCode.UNIMPLEMENTED: NotServedError,
    grpc.StatusCode.UNAUTHENTICATED: AccessError,
    grpc.StatusCode.PERMISSION_DENIED: AccessError,
    grpc.StatusCode.INTERNAL: ServerError,
    grpc.StatusCode.UNKNOWN: ServerError,
}


def of_reason(
    reason: str, message: str, *, metadata: Mapping[str, str] | None = None
) -> PrecallError:
    """Returns the typed error for a reason of the contract."""
    kind, code = _BY_REASON[reason]
    return kind(message, reason=reason, code=code, metadata=metadata)


def ended(ending: PrecallError) -> PrecallError:
    """Returns the error for using a conversation that has ended, of the type that ended it."""
    return type(ending)(
        f"the conversation has ended, open another one: {ending.message}",
        reason=ending.reason,
        code=ending.code,
        metadata=ending.metadata,
        retry_after_s=ending.retry_after_s,
    )


def from_status(status: Status, *, family: type[PrecallError] | None = None) -> PrecallError:
    """Returns the typed error for a status in a frame.

    Args:
        status: The status, with at most one ErrorInfo of our domain.
        family: The class to use for every reason, if the field of the frame determines it.
    """
    info = ErrorInfo()
    retry_after_s: float | None = None
    for detail in status.details:
        found, retry = ErrorInfo(), RetryInfo()
        if detail.Unpack(found) and found.domain == DOMAIN:
            info = found
        elif detail.Unpack(retry):
            retry_after_s = retry.retry_delay.ToMilliseconds() / 1000
    reason = info.reason.removeprefix("ERROR_REASON_")
    code = _CODES.get(status.code, grpc.StatusCode.UNKNOWN)
    chosen = family or (_BY_REASON[reason][0] if reason in _BY_REASON else None)
    chosen = chosen or _BY_CODE.get(code, PrecallError)
    return chosen(
        status.message,
        reason=reason,
        code=code,
        metadata=info.metadata,
        retry_after_s=retry_after_s,
    )


def from_rpc(error: grpc.aio.AioRpcError) -> PrecallError:
    """Returns the typed error for the gRPC status that ended a call or a stream.

    A status without one of precall's reasons was not made by precall: the connection broke.
    """
    metadata = error.trailing_metadata()
    details = metadata.get(DETAILS_KEY) if metadata is not None else None
    if isinstance(details, bytes):
        typed = from_status(Status.FromString(details))
        if typed.reason:
            return typed
    text = f"the connection to the server was lost: {error.details() or error.code().name}"
    return ConnectionLostError(text, code=error.code())


def unreachable(address: str, error: grpc.aio.AioRpcError) -> PrecallError:
    """Returns the typed error for a call that failed before the server answered."""
    typed = from_rpc(error)
    if typed.reason:
        return typed
    said = f"{error.code().name}: {error.details()}"
    match error.code():
        case grpc.StatusCode.UNAVAILABLE:
            text = (
                f"cannot reach a precall server at {address}; is `precall serve` running? ({said})"
            )
        case grpc.StatusCode.UNIMPLEMENTED:
            text = f"the server at {address} is not a precall server ({said})"
        case grpc.StatusCode.CANCELLED | grpc.StatusCode.INTERNAL:
            return cut_off(address, said)
        case grpc.StatusCode.RESOURCE_EXHAUSTED:  # gRPC itself refuses messages that are too large
            return LimitReachedError(f"{address} refused the call ({said})", code=error.code())
        case _:  # from a gateway, or from gRPC itself
            text = f"{address} refused the connection ({said})"
    return ConnectError(text, code=error.code())


def no_answer(address: str, timeout_s: float) -> ConnectError:
    """Returns the error of a call that the server did not answer in time."""
    return ConnectError(
        f"{address} did not answer within {timeout_s:g} s",
        code=grpc.StatusCode.DEADLINE_EXCEEDED,
    )


def no_tool(owner: str, name: str) -> ToolRejectedError:
    """Returns the error for naming a tool that its owner does not have."""
    return ToolRejectedError(
        f"this {owner} has no tool {name!r}",
        reason="TOOL_UNKNOWN",
        code=grpc.StatusCode.NOT_FOUND,
    )


def cut_off(address: str, said: str) -> UnavailableError:
    """Returns the error of a call that the server ended before it looked at it.

    A server does so, without a reason, if more calls come at once than it can take.
    """
    return UnavailableError(
        f"{address} ended the call before it answered, and gave no reason ({said}): it has more "
        "calls than it can take, or it is stopping; try again",
        code=grpc.StatusCode.CANCELLED,
        retry_after_s=CUT_OFF_RETRY_S,
    )


async def cancelled(address: str, call: grpc.aio.Call, *, closed: bool) -> PrecallError:
    """Returns the error of a call that was cancelled, though not by its caller.

    Args:
        address: The server's address.
        call: The call, which has ended.
        closed: Whether the client was closed, which cancels its calls.
    """
    if closed:
        return client_closed()
    return cut_off(address, f"{(await call.code()).name}: {await call.details()}")


async def cancelled_stream(call: grpc.aio.Call) -> PrecallError:
    """Returns the error of a stream that the server ended with the status CANCELLED."""
    error = grpc.aio.AioRpcError(
        await call.code(),
        await call.initial_metadata(),
        await call.trailing_metadata(),
        await call.details(),
    )
    return from_rpc(error)


def client_closed() -> ConnectError:
    """Returns the error of a call that was in flight when its client was closed."""
    return ConnectError("the client was closed", code=grpc.StatusCode.CANCELLED)
