"""Messages of a conversation, and the answer that a turn ends with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import pydantic
import pydantic_core

from precall._errors import PrecallError
from precall._events import ResultSource, ToolCallOutcome, TurnOutcome, TurnReport

Role: TypeAlias = Literal["user", "assistant", "tool"]
"""The author of a message."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that the model made and, on an Answer, how it ended."""

    call_id: str
    """The id of the call in its conversation."""
    tool_name: str
    """Name of the tool."""
    arguments_json: str
    """The arguments: a JSON object. Empty if the call was cut before the model finished it."""
    outcome: ToolCallOutcome | None = None
    """How it ended; None in a history."""
    result_json: str = ""
    """The result as JSON text; empty if there is none."""
    error: PrecallError | None = None
    """What went wrong; None if the call has a result."""
    source: ResultSource | None = None
    """Where the result came from: a run, an early run, or the tool cache. None if there is no
    result."""

    @property
    def arguments(self) -> pydantic.JsonValue:
        """The arguments as Python values; None if the call was cut before the model finished it."""
        return pydantic_core.from_json(self.arguments_json) if self.arguments_json else None

    @property
    def result(self) -> pydantic.JsonValue:
        """The result as Python values; None if there is none."""
        return pydantic_core.from_json(self.result_json) if self.result_json else None


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a history, with which a conversation can begin."""

    role: Role
    """Its author."""
    text: str = ""
    """The text; for a tool, the result that the model sees."""
    tool_calls: tuple[ToolCall, ...] = ()
    """The calls of an assistant message."""
    tool_call_id: str = ""
    """The call that a tool message answers."""
    reasoning: str = ""
    """The reasoning of an assistant message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """How a turn ended. `str(answer)` is its text."""

    text: str
    """The text of the last step."""
    outcome: TurnOutcome
    """ANSWERED; or LIMIT or CANCELLED, and then the text may be cut."""
    report: TurnReport
    """Times and token counts of the turn."""
    tool_calls: tuple[ToolCall, ...]
    """Every call of the turn, in the order in which the model made them."""
    reasoning: str
    """The reasoning of all steps."""
    error: PrecallError | None
    """With LIMIT: the limit that was reached, by its reason: LIMIT_REACHED, TURN_TIMEOUT, ..."""
    turn_id: str
    """The id of the turn."""

    def __str__(self) -> str:
        return self.text
