"""What a server is, serves and allows, as values."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Capability(enum.Enum):
    """Something that a server may or may not be able to do."""

    UNKNOWN = "unknown"
    """A value of a newer server."""
    TOOL_CALLS = "tool_calls"
    """The served model's format has tool calls."""
    STRUCTURED_CALLS = "structured_calls"
    """Calls are held to their schemas while they are generated."""
    REASONING = "reasoning"
    """Reasoning is told apart from text."""
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


class EngineState(enum.Enum):
    """Where the engine stands."""

    UNKNOWN = "unknown"
    """A value of a newer server."""
    STARTING = "starting"
    """Weights load."""
    READY = "ready"
    """It serves."""
    RESTARTING = "restarting"
    """It died and is being started again."""
    FAILED = "failed"
    """It is not coming back without an operator."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnLimits:
    """How much a turn may use. None: the server does not say."""

    max_steps: int | None = None
    """Assistant messages."""
    max_tokens: int | None = None
    """Tokens that all steps together may generate."""
    max_duration_s: float | None = None
    """Seconds from admission to the end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerLimits:
    """What a server allows; sizes in bytes of UTF-8. 0: the server does not say."""

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
    """Messages that one conversation keeps."""
    turn_limits_max: TurnLimits = TurnLimits()
    """The most, and the default, that a turn may use."""
    tool_timeout_max_s: float = 0.0
    """How long a turn may wait for a tool."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineLoad:
    """What the engine is doing."""

    running_sequences: int = 0
    """Sequences that it generates now."""
    waiting_sequences: int = 0
    """Sequences that it holds waiting."""
    kv_cache_usage: float = 0.0
    """Share of the KV cache in use, 0 to 1."""
    admitted_turns: int = 0
    """Turns admitted now."""
    waiting_turns: int = 0
    """Turns that wait for admission."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerInfo:
    """What a server is, serves and allows."""

    version: str
    """Version of precall-service."""
    model: str
    """Name of the served model."""
    capabilities: frozenset[Capability]
    """What it can do."""
    limits: ServerLimits
    """What it allows."""
    engine_state: EngineState
    """Where its engine stands."""
    engine: str
    """The engine and its version, such as "vllm 0.32.0"."""
    load: EngineLoad
    """What the engine is doing now."""
    uptime_s: float
    """How long the server process has been up, in seconds."""
