"""The check of a call's arguments against the input schema of its tool."""

from __future__ import annotations

from precall_service.domain.errors import Reason, ServiceError
from precall_service.domain.json import (
    HALF_PAIR,
    JsonError,
    JsonObject,
    find_half_pair,
    may_hold_half_pair,
    parse_object,
)
from precall_service.tools.declarations import ToolLimits
from precall_service.tools.schema import MismatchError
from precall_service.tools.toolset import RegisteredTool


def check_arguments(tool: RegisteredTool, arguments_json: str, limits: ToolLimits) -> JsonObject:
    """The arguments that the model wrote, if the tool's handler may be given them.

    Raises:
        ServiceError: TOO_LARGE, or ARGUMENTS_INVALID with a message that the model can act on.
    """
    size = len(arguments_json.encode(errors="replace"))
    limit = limits.arguments_bytes_max
    if size > limit:
        raise ServiceError(
            Reason.TOO_LARGE,
            f"the arguments have {size} bytes, the limit is {limit}; pass less",
            metadata={"size": str(size), "limit": str(limit)},
        )
    try:
        arguments = parse_object(arguments_json)
    except JsonError as error:
        raise _invalid(tool, f"arguments: not a JSON object: {error}") from None
    if may_hold_half_pair(arguments_json) and (place := find_half_pair(arguments, "arguments")):
        raise _invalid(tool, f"{place}: {HALF_PAIR}; write the whole character, or leave it out")
    try:
        tool.arguments.check(arguments, root="arguments")
    except MismatchError as error:
        raise _invalid(tool, str(error)) from None
    return arguments


def _invalid(tool: RegisteredTool, message: str) -> ServiceError:
    return ServiceError(Reason.ARGUMENTS_INVALID, message, metadata={"tool_name": tool.name})
