"""How calls and turns end, and the text that the model reads about a call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from precall_service.domain.errors import Reason, ServiceError
from precall_service.domain.events import ToolCallOutcome, TurnOutcome
from precall_service.domain.json import dump, parse
from precall_service.domain.text import encodable

_OUTCOMES = {
    Reason.TOOL_UNAVAILABLE: ToolCallOutcome.UNAVAILABLE,
    Reason.TOOL_TIMEOUT: ToolCallOutcome.TIMEOUT,
    Reason.CANCELLED: ToolCallOutcome.CANCELLED,
}

UNANSWERED: Final = frozenset({TurnOutcome.FAILED, TurnOutcome.NO_CALL})
"""How turns end that count as errors: unless tools may have had effects, the conversation keeps
nothing of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InvocationEnding:
    """The ending of a call. RESULT has a `result_json`, every other outcome an `error`.

    `content` is what the model sees of a result in place of the JSON text; empty: the JSON text.
    """

    outcome: ToolCallOutcome
    result_json: str = ""
    content: str = ""
    error: ServiceError | None = None

    @staticmethod
    def of_result(result_json: str, content: str = "") -> InvocationEnding:
        """Returns the ending for a result of the handler."""
        return InvocationEnding(
            outcome=ToolCallOutcome.RESULT, result_json=result_json, content=content
        )

    @staticmethod
    def of_error(error: ServiceError) -> InvocationEnding:
        """Returns the ending for an error; the outcome follows from its reason."""
        outcome = _OUTCOMES.get(error.reason, ToolCallOutcome.ERROR)
        return InvocationEnding(outcome=outcome, error=error.copy())


def model_text(ending: InvocationEnding) -> str:
    """Returns the text of the tool message that answers the call.

    For a result, this is its content, or else the JSON text that the handler wrote; a string is
    shown without quotes and escapes, which would be noise to the model. For an error, it is a JSON
    object whose `error` has a `type` and a `message` that the model can act on.
    """
    if ending.error is None:
        return ending.content or _plain(ending.result_json)
    error = ending.error
    kind = error.metadata.get("handler_error_type") or error.reason.name.lower()
    return dump({"error": {"type": kind, "message": error.message}})


def _plain(result_json: str) -> str:
    if not result_json.lstrip().startswith('"'):
        return result_json
    text = parse(result_json)
    assert isinstance(text, str)
    return encodable(text)
