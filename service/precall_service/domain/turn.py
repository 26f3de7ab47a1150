"""What a client asks of a turn: the user's message, settings and limits."""

from __future__ import annotations

import enum
from collections.abc import Collection
from dataclasses import dataclass, field

from precall_service.domain.events import TraceContext


class ToolChoiceMode(enum.Enum):
    """How the model may choose among the tools until it has made a call."""

    AUTO = "auto"
    NONE = "none"
    REQUIRED = "required"
    NAMED = "named"


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolChoice:
    """Which tools may or must be called. `tool_name` is set if the mode is NAMED, else empty."""

    mode: ToolChoiceMode = ToolChoiceMode.AUTO
    tool_name: str = ""

    @property
    def requires_call(self) -> bool:
        """Whether a call must be made, of any tool or of the one that is named."""
        return self.mode in {ToolChoiceMode.REQUIRED, ToolChoiceMode.NAMED}

    def is_met_by(self, called: Collection[str]) -> bool:
        """Returns whether a message that calls these tools makes the call that must be made."""
        match self.mode:
            case ToolChoiceMode.REQUIRED:
                return bool(called)
            case ToolChoiceMode.NAMED:
                return self.tool_name in called
            case ToolChoiceMode.AUTO | ToolChoiceMode.NONE:
                return True

    def after(self, called: Collection[str]) -> ToolChoice:
        """Returns the choice for the step after calls of these tools.

        It is free once a call that must be made has been made, so that REQUIRED and NAMED do not
        loop.
        """
        keeps = self.mode is ToolChoiceMode.NONE or not self.is_met_by(called)
        return self if keeps else ToolChoice()


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationSettings:
    """How tokens are chosen. None means the model's own default."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    max_step_tokens: int | None = None
    stop: tuple[str, ...] = ()
    tool_choice: ToolChoice = field(default_factory=ToolChoice)


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnLimits:
    """How much one turn may use: steps, generated tokens over all steps, wall time."""

    max_steps: int
    max_turn_tokens: int
    max_duration_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnSpec:
    """One user message to answer. Its values have been checked against the server's limits."""

    turn_id: str
    text: str
    generation: GenerationSettings
    limits: TurnLimits
    trace_context: TraceContext = field(default_factory=TraceContext)
