"""Why a run ended without its handler's answer, in words for the model and the client."""

from __future__ import annotations

from precall_service.domain.errors import Reason, ServiceError
from precall_service.domain.events import InvocationCancelReason
from precall_service.tools.toolset import RegisteredTool

SEND_TIMEOUT_S = 10.0
"""How long a process may refuse to take an invocation before it counts as gone."""


def withdrawn(tool: RegisteredTool) -> ServiceError:
    """The tool was withdrawn before the run started."""
    return ServiceError(
        Reason.TOOL_UNAVAILABLE,
        f"tool {tool.name!r} is no longer offered; go on without it",
        metadata={"tool_name": tool.name},
    )


def changed(tool: RegisteredTool) -> ServiceError:
    """The tool was updated before a speculative run of it started."""
    return ServiceError(
        Reason.TOOL_UNAVAILABLE,
        f"the declared effects of tool {tool.name!r} changed while a speculative run waited; it did"
        " not run",
        metadata={"tool_name": tool.name},
    )


def updated(tool: RegisteredTool) -> ServiceError:
    """The tool was updated before a run started that must use the older registration."""
    return ServiceError(
        Reason.TOOL_UNAVAILABLE,
        f"tool {tool.name!r} was updated while the call waited; it did not run",
        metadata={"tool_name": tool.name},
    )


def gone(tool: RegisteredTool, *, sent: bool) -> ServiceError:
    """The process is gone."""
    return ServiceError(
        Reason.TOOL_UNAVAILABLE,
        f"the process that runs tool {tool.name!r} is gone" + _doubt(tool, sent=sent),
        metadata={"tool_name": tool.name},
    )


def kept_waiting(tool: RegisteredTool) -> ServiceError:
    """No slot of the tool was free within its timeout."""
    timeout_s = tool.declaration.timeout_s
    return ServiceError(
        Reason.TOOL_TIMEOUT,
        f"earlier calls kept tool {tool.name!r} busy for {timeout_s:g} s; this one did not run",
        metadata={"tool_name": tool.name, "limit": f"{timeout_s:g}"},
    )


def not_taken(tool: RegisteredTool) -> ServiceError:
    """The process did not take the invocation within SEND_TIMEOUT_S."""
    return ServiceError(
        Reason.TOOL_UNAVAILABLE,
        f"the process that runs tool {tool.name!r} has taken nothing for {SEND_TIMEOUT_S:g} s; it"
        " did not run",
        metadata={"tool_name": tool.name},
    )


def timed_out(tool: RegisteredTool) -> ServiceError:
    """The handler did not answer within the tool's timeout."""
    timeout_s = tool.declaration.timeout_s
    return ServiceError(
        Reason.TOOL_TIMEOUT,
        f"tool {tool.name!r} did not answer within {timeout_s:g} s and was told to stop"
        + _doubt(tool, sent=True),
        metadata={"tool_name": tool.name, "limit": f"{timeout_s:g}"},
    )


_WHY_DISCARDED = {
    InvocationCancelReason.TIMEOUT: "there was no time left for",
    InvocationCancelReason.TURN_ENDED: "the turn ended before the end of",
    InvocationCancelReason.CALL_CANCELLED: "the call was cancelled before the end of",
    InvocationCancelReason.PREDICTION_DISCARDED: "the prediction was discarded that had started",
    InvocationCancelReason.DRAINING: "the server shuts down and stopped",
}


def discarded(tool: RegisteredTool, reason: InvocationCancelReason, *, sent: bool) -> ServiceError:
    """The run was no longer wanted."""
    return ServiceError(
        Reason.CANCELLED,
        f"{_WHY_DISCARDED[reason]} a run of tool {tool.name!r}" + _doubt(tool, sent=sent),
        metadata={"tool_name": tool.name},
    )


def _doubt(tool: RegisteredTool, *, sent: bool) -> str:
    """What is known of the handler's effects."""
    if not sent:
        return "; it did not run"
    return "" if tool.declaration.effects.read_only else "; whether it took effect is not known"
