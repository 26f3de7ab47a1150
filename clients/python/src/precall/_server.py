"""A server's capabilities, limits and state, as values."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Capability(enum.Enum):
    """A part of the contract that a server may or may not serve."""

    UNKNOWN = "unknown"
    """A value of a newer server."""
    TOOL_CALLS = "tool_calls"
    """The served model's format has tool calls."""
    STRUCTURED_CALLS = "structured_calls"
    """Generated calls are constrained to the schemas of their tools."""
    REASONING = "reasoning"
    """Reasoning is separated from text."""
    RESUME = "resume"
    """Lost streams can be resumed."""
    TOOL_HOSTS = "tool_hosts"
    """Shared tool hosts."""
    APPROVALS = "approvals"
    """Tools that require approval."""
    INTERJECTION = "interjection"
    """User input while a turn runs."""
    TOOL_CACHE = "tool_cache"
    """The tool cache."""
    SPECULATION = "speculation"
    """Predictions that run early."""
    DRAFTS = "drafts"
    """Predicted calls verified in the engine."""
    ANSWER_FORMAT = "answer_format"
    """Answers held to a form."""
    TOOL_SELECTION = "tool_selection"
    """A subset of the tools, and a limit on parallel calls, for one turn."""
    LOG_PROBABILITIES = "log_probabilities"
    """Log probabilities of the answer's tokens."""
    TRANSCRIPT = "transcript"
    """Reading a conversation as the model saw it."""
    MEDIA = "media"
    """Content other than text."""


class EngineState(enum.Enum):
    """The state of the engine."""

    UNKNOWN = "unknown"
    """A value of a newer server."""
    STARTING = "starting"
    """It loads the model."""
    READY = "ready"
    """It serves turns."""
    RESTARTING = "restarting"
    """It died and is being restarted."""
    FAILED = "failed"
    """It stays down until an operator acts."""
    SILENT = "silent"
    """It gives no sign of life: no turn starts until it does, or until it was started again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnLimits:
    """How much a turn may use. None: the server does not tell."""

    max_steps: int | None = None
    """Assistant messages."""
    max_turn_tokens: int | None = None
    """Tokens that all steps together may generate."""
    max_duration_s: float | None = None
    """From admission to the end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerLimits:
    """The limits of a server; sizes in bytes of UTF-8. 0: the server does not tell."""

    frame_bytes_max: int = 0
    """One frame on the wire."""
    text_bytes_max: int = 0
    """One user message, system prompt or message of a history."""
    tools_max: int = 0
    """Tools per conversation."""
    schema_bytes_max: int = 0
    """One tool's schema."""
    description_bytes_max: int = 0
    """One tool's description."""
    result_bytes_max: int = 0
    """One result of a tool."""
    context_tokens_max: int = 0
    """Tokens of prompt and generation together."""
    messages_max: int = 0
    """Messages in one conversation."""
    turn_limits_max: TurnLimits = TurnLimits()
    """The most that a turn may use, which is also the default."""
    tool_timeout_max_s: float = 0.0
    """The longest timeout of a tool."""
    arguments_bytes_max: int = 0
    """The arguments of one call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineLoad:
    """The load of the engine."""

    running_sequences: int = 0
    """Sequences being generated."""
    waiting_sequences: int = 0
    """Sequences that wait in the engine."""
    kv_cache_usage: float = 0.0
    """Fraction of the KV cache in use, from 0 to 1."""
    admitted_turns: int = 0
    """Admitted turns."""
    waiting_turns: int = 0
    """Turns that wait for admission."""
    turns_max: int = 0
    """Turns that may be admitted now, if the KV cache has room for them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerInfo:
    """A server's description of itself."""

    version: str
    """Version of precall-service."""
    model: str
    """Name of the served model."""
    capabilities: frozenset[Capability]
    """Its capabilities."""
    limits: ServerLimits
    """Its limits."""
    engine_state: EngineState
    """The state of its engine."""
    engine: str
    """The engine and its version, such as "vllm 0.32.0"."""
    load: EngineLoad | None
    """The load of its engine; None if the server does not tell its clients."""
    uptime_s: float
    """Time since the server process started."""
