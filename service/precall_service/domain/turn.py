"""A turn as it is asked for."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from precall_service.domain.events import TraceContext


class ToolChoiceMode(enum.Enum):
    """How the model may choose among the tools in the first step of a turn."""

    AUTO = "auto"
    NONE = "none"
    REQUIRED = "required"
    NAMED = "named"


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolChoice:
    """Which tools may or must be called; `tool_name` goes with NAMED alone."""

    mode: ToolChoiceMode = ToolChoiceMode.AUTO
    tool_name: str = ""

    def after_calls(self) -> ToolChoice:
        """The choice for a step after the model has called: REQUIRED and NAMED must not loop."""
        return self if self.mode is ToolChoiceMode.NONE else ToolChoice()


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationSettings:
    """How tokens are chosen. None takes the model's own default."""

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
    """One user message to be answered, checked against the limits of the server."""

    turn_id: str
    text: str
    generation: GenerationSettings
    limits: TurnLimits
    trace_context: TraceContext = field(default_factory=TraceContext)
