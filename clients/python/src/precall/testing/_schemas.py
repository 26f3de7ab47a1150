"""Checks the arguments and results of calls against the schemas of their tools."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from precall.testing._service.domain.json import (
    HALF_PAIR,
    JsonError,
    JsonObject,
    JsonValue,
    find_half_pair,
    may_hold_half_pair,
    parse,
    parse_object,
    without_half_pairs,
)
from precall.testing._service.tools.schema import MismatchError, Schema
from precall.testing._status import RefusedError

NO_ARGUMENTS: Final[JsonObject] = {
    "type": "object",
    "properties": {},
    "additionalProperties": False,
}
"""The input schema of a tool that has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolSchemas:
    """The schemas of one tool. `result` is None if the tool has no output schema."""

    arguments: Schema
    result: Schema | None

    def check_arguments(self, arguments_json: str, bytes_max: int) -> None:
        """Raises RefusedError if the arguments are too large or break the schema. 0: any size."""
        size = len(arguments_json.encode())
        if bytes_max and size > bytes_max:
            text = f"the arguments have {size} bytes, the limit is {bytes_max}; pass less"
            raise RefusedError("TOO_LARGE", text)
        arguments = parse_object(arguments_json)
        if may_hold_half_pair(arguments_json) and (place := find_half_pair(arguments, "arguments")):
            text = f"{place}: {HALF_PAIR}; write the whole character, or leave it out"
            raise RefusedError("ARGUMENTS_INVALID", text)
        try:
            self.arguments.check(arguments, root="arguments")
        except MismatchError as error:
            raise RefusedError("ARGUMENTS_INVALID", str(error)) from None

    def check_result(self, result_json: str, tool_name: str) -> None:
        """Raises RefusedError if the result is not JSON or breaks the schema."""
        field = "invocation_result.result_json"
        said = f"the result of tool {tool_name!r}"
        try:
            parse(result_json)
        except JsonError as error:
            text = f"{said} is not JSON text: {error}"
            raise RefusedError("RESULT_INVALID", text, field) from None
        if self.result is None:
            return
        try:
            self.result.check(seen_value(result_json), root="result")
        except (JsonError, MismatchError) as error:
            text = f"{said} breaks its output schema: {error}"
            raise RefusedError("RESULT_INVALID", text, field) from None


def seen_value(result_json: str) -> JsonValue:
    """Returns the value of a result as the model sees it: "?" stands for half of a surrogate pair.

    Raises:
        JsonError: The result is not JSON text, or is nested too deeply.
    """
    value = parse(result_json)
    return without_half_pairs(value) if may_hold_half_pair(result_json) else value
