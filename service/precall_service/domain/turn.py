"""A turn as it is asked for and as it ends."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field


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
class TraceContext:
    """W3C trace context of the sender; an empty `traceparent` means that there is no trace."""

    traceparent: str = ""
    tracestate: str = ""

    def carrier(self) -> dict[str, str]:
        """The two headers by their names."""
        return {"traceparent": self.traceparent, "tracestate": self.tracestate}


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnSpec:
    """One user message to be answered, checked against the limits of the server."""

    turn_id: str
    text: str
    generation: GenerationSettings
    limits: TurnLimits
    trace_context: TraceContext = field(default_factory=TraceContext)


class TurnOutcome(enum.Enum):
    """How a turn ended. Every member is terminal."""

    ANSWERED = 1
    LIMIT = 2
    CANCELLED = 3
    FAILED = 4
    INTERJECTED = 5


class StepFinish(enum.Enum):
    """Why a step ended."""

    STOP = 1
    TOOL_CALLS = 2
    LENGTH = 3
    ABORTED = 4


class CallOutcome(enum.Enum):
    """How a tool call ended. Every member is terminal, and the model is told in each case."""

    RESULT = 1
    ERROR = 2
    TIMEOUT = 3
    CANCELLED = 4
    UNAVAILABLE = 5
    DENIED = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenUsage:
    """Tokens of prompts, those of them served from the KV cache, and tokens generated."""

    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0

    def __add__(self, other: TokenUsage) -> TokenUsage:
        return TokenUsage(
            input_tokens=self.input_tokens + other.input_tokens,
            cached_tokens=self.cached_tokens + other.cached_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            reasoning_tokens=self.reasoning_tokens + other.reasoning_tokens,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnReport:
    """Where a turn's time and tokens went; all times in seconds."""

    wall_s: float
    queue_s: float
    time_to_first_token_s: float | None
    generation_s: float
    tool_exposed_s: float
    continuation_s: float
    steps: int
    tool_calls: int
    usage: TokenUsage
