"""How a server elsewhere is reached, and what is known of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

PROBE_S: Final = 10.0
"""How often a server is asked whether it lives, unless its silence is to be noticed sooner."""

LimitField: TypeAlias = Literal["max_tokens", "max_completion_tokens"]
ReasoningField: TypeAlias = Literal["reasoning", "reasoning_content"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingNames:
    """How errors name the settings of a server."""

    url: str = "--url"
    model: str = "--model"
    api_key: str = "the variable PRECALL_OPENAI__API_KEY"


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenAiConfig:
    """The configuration of the remote backend.

    Attributes:
        url: The base of the interface, such as http://localhost:8000/v1.
        model: None: the one model that the server has.
        api_key: Never shown.
        turns_max: How many turns the server is given at once, and branches of none.
        context_tokens_max: None: what the server says, if it does.
        step_tokens_max: The most tokens that are asked for in one step.
        limit_field: The field of a generation that bounds its tokens. Servers differ in its name.
        reasoning_field: The field of a message in which reasoning is sent back. None: it is not.
        answer_timeout_s: How long the server may take for its first byte, and for each further one.
        tries_max: How often a step is tried that the server refused for now, or did not answer.
        share_prefix_cache: Whether tenants share the prefix cache, where the server could part it.
        probe_s: How often the server is asked whether it still lives.
        streams: Whether steps are read as they are generated, or as a whole at their end.
        names: How errors name the settings.
    """

    url: str
    model: str | None
    api_key: str = field(repr=False)
    turns_max: int
    context_tokens_max: int | None
    step_tokens_max: int
    limit_field: LimitField
    connect_timeout_s: float
    answer_timeout_s: float
    tries_max: int
    share_prefix_cache: bool
    reasoning_field: ReasoningField | None = None
    probe_s: float = PROBE_S
    streams: bool = True
    names: SettingNames = SettingNames()
