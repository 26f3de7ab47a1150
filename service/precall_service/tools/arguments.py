"""The check of a call's arguments against the input schema of its tool."""

from __future__ import annotations

from precall_service.domain.errors import Reason, ServiceError
from precall_service.domain.json import JsonObject
from precall_service.tools.checked_texts import Subject
from precall_service.tools.checks import Checks
from precall_service.tools.declarations import ToolLimits
from precall_service.tools.schema import CostlyError, MismatchError
from precall_service.tools.toolset import RegisteredTool


async def check_arguments(
    tool: RegisteredTool, arguments_json: str, limits: ToolLimits, checks: Checks
) -> JsonObject:
    """The arguments that the model wrote, if the tool's handler may be given them.

    Raises:
        ServiceError: TOO_LARGE, or ARGUMENTS_INVALID with a message that the model can act on.
    On cancel: the check is given up.
    """
    _check_size(arguments_json, limits.arguments_bytes_max)
    try:
        return await checks.arguments(arguments_json, tool.arguments, tool.toolset.tenant)
    except MismatchError as error:
        raise _invalid(tool, str(error)) from None


def check_arguments_at_once(
    tool: RegisteredTool, arguments_json: str, limits: ToolLimits, checks: Checks
) -> JsonObject:
    """The arguments that a predictor proposes, if that can be told without keeping the event loop.

    Raises:
        ServiceError: as `check_arguments`; also TOO_LARGE if the check might take longer.
    """
    _check_size(arguments_json, limits.arguments_bytes_max)
    try:
        value = checks.at_once(Subject.ARGUMENTS, arguments_json, tool.arguments)
    except MismatchError as error:
        raise _invalid(tool, str(error)) from None
    except CostlyError:
        raise ServiceError(
            Reason.TOO_LARGE, "the arguments take too long to be checked for a prediction"
        ) from None
    assert isinstance(value, dict)
    return value


def _check_size(arguments_json: str, limit: int) -> None:
    size = len(arguments_json.encode(errors="replace"))
    if size > limit:
        raise ServiceError(
            Reason.TOO_LARGE,
            f"the arguments have {size} bytes, the limit is {limit}; pass less",
            metadata={"size": str(size), "limit": str(limit)},
        )


def _invalid(tool: RegisteredTool, message: str) -> ServiceError:
    return ServiceError(Reason.ARGUMENTS_INVALID, message, metadata={"tool_name": tool.name})
