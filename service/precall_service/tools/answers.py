"""Turns what a handler answered into the ending of its run."""

from __future__ import annotations

from precall_service.domain.endings import InvocationEnding
from precall_service.domain.errors import Reason, ServiceError
from precall_service.tools.checked_texts import Subject
from precall_service.tools.checks import Checks
from precall_service.tools.declarations import ToolLimits
from precall_service.tools.link import (
    HandlerAnswer,
    HandlerCancelled,
    HandlerError,
    HandlerResult,
    HandlerUnusable,
)
from precall_service.tools.schema import MismatchError
from precall_service.tools.text import shorten
from precall_service.tools.toolset import RegisteredTool

TYPE_CHARS_MAX = 100
MESSAGE_CHARS_MAX = 2000


async def read_answer(
    tool: RegisteredTool, answer: HandlerAnswer, limits: ToolLimits, checks: Checks
) -> InvocationEnding:
    """Returns the ending that follows from the answer.

    Raises:
        ServiceError: TOO_LARGE, RESULT_INVALID or NOT_SERVED, the result cannot be used.
    On cancel: the check of the result is given up.
    """
    match answer:
        case HandlerResult(result_json, content):
            _check_size(tool, result_json, content, limits.result_bytes_max)
            await _check_result(tool, result_json, checks)
            return InvocationEnding.of_result(result_json, content)
        case HandlerUnusable(error):
            raise error
        case HandlerError(kind, message):
            return InvocationEnding.of_error(_handler_failed(tool, kind, message))
        case HandlerCancelled():
            return InvocationEnding.of_error(
                ServiceError(
                    Reason.CANCELLED,
                    f"tool {tool.name!r} stopped before it had a result",
                    metadata={"tool_name": tool.name},
                )
            )


def _check_size(tool: RegisteredTool, result_json: str, content: str, bytes_max: int) -> None:
    size = len(result_json.encode(errors="replace")) + len(content.encode(errors="replace"))
    if size > bytes_max:
        raise _result_error(
            Reason.TOO_LARGE,
            tool,
            f"has {size} bytes, the limit is {bytes_max}; ask for less",
            size=str(size),
            limit=str(bytes_max),
        )


async def _check_result(tool: RegisteredTool, result_json: str, checks: Checks) -> None:
    try:
        await checks.check(Subject.RESULT, result_json, tool.result, tool.toolset.tenant)
    except MismatchError as error:
        raise _result_error(Reason.RESULT_INVALID, tool, str(error)) from None


def _result_error(
    reason: Reason, tool: RegisteredTool, message: str, **metadata: str
) -> ServiceError:
    return ServiceError(
        reason,
        f"the result of tool {tool.name!r} {message}",
        field="invocation_result.result_json",
        metadata={"tool_name": tool.name, **metadata},
    )


def _handler_failed(tool: RegisteredTool, kind: str, message: str) -> ServiceError:
    return ServiceError(
        Reason.TOOL_FAILED,
        shorten(message, MESSAGE_CHARS_MAX) or f"tool {tool.name!r} failed without a message",
        metadata={
            "tool_name": tool.name,
            "handler_error_type": shorten(kind, TYPE_CHARS_MAX) or "handler_error",
        },
    )
