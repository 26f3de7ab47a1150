"""What a backend has proved of its model when it started, in words for an operator.

Owns: what can be proved, and how a proof can end.
Never: proves anything.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final


class Subject(enum.Enum):
    """What is proved of a model, its chat template and its parsers."""

    CONVERSATIONS = "conversations"
    SYSTEM_PROMPTS = "system prompts"
    TOOL_CALLS = "tool calls"
    PARALLEL_CALLS = "parallel calls"
    REQUIRED_CALLS = "required calls"
    SCHEMAS = "schemas"
    REASONING = "reasoning"
    APPENDING = "appending"
    HISTORY = "history"


class Standing(enum.Enum):
    """How a proof ended: the subject holds, holds within a limit, or does not hold."""

    HOLDS = "holds"
    LIMITED = "limited"
    FAILS = "fails"


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one proof. `sentence` tells an operator what holds or does not, and why."""

    subject: Subject
    standing: Standing
    sentence: str

    @property
    def limits(self) -> bool:
        """Whether the subject does not hold, or only within a limit."""
        return self.standing is not Standing.HOLDS


@dataclass(frozen=True, slots=True)
class Findings:
    """The findings of one start, at most one on each subject."""

    each: tuple[Finding, ...] = ()

    def on(self, subject: Subject) -> Finding | None:
        """The finding on a subject; None if nothing was proved of it."""
        return next((finding for finding in self.each if finding.subject is subject), None)

    def hold(self, subject: Subject) -> bool:
        """Whether the subject was proved to hold without a limit."""
        finding = self.on(subject)
        return finding is not None and not finding.limits


NOTHING_FOUND: Final = Findings()
"""Of a backend that proves nothing."""
