"""The content of a conversation: messages, the model's calls, and the transcript."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from precall_service.domain.json import JsonValue
from precall_service.domain.tools import ToolDeclaration

RESERVED_VARIABLES: Final = frozenset(
    {
        "add_generation_prompt",
        "chat_template",
        "continue_final_message",
        "conversation",
        "cycler",
        "dict",
        "joiner",
        "lipsum",
        "max_length",
        "messages",
        "model_config",
        "namespace",
        "padding",
        "raise_exception",
        "range",
        "return_assistant_tokens_mask",
        "return_dict",
        "return_tensors",
        "self",
        "strftime_now",
        "tokenize",
        "tokenizer",
        "tokenizer_kwargs",
        "tools",
        "truncation",
    }
)
"""Names that no template variable may have. The functions that render templates take most of them
as their own arguments, and would execute a `chat_template`. The others are functions that templates
call."""


def refusal_of(variables: Mapping[str, JsonValue]) -> str | None:
    """Why these template variables are refused, in words; None if they are not."""
    reserved = sorted(RESERVED_VARIABLES & variables.keys())
    return f"{reserved[0]!r} cannot be a template variable: leave it out" if reserved else None


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """A call that the model made. `arguments_json` is a JSON object, as the model wrote it.

    `written_id` is the id that the model itself wrote, as few models do, and looks for in the
    answer.
    """

    call_id: str
    tool_name: str
    arguments_json: str
    written_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class UserMessage:
    """A message of the user."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AssistantMessage:
    """A message of the model, from one step: text, separate reasoning, and calls in order."""

    text: str
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolMessage:
    """The answer to one call, as the model sees it."""

    call_id: str
    tool_name: str
    text: str


Message = UserMessage | AssistantMessage | ToolMessage


def characters(messages: Iterable[Message]) -> int:
    """How much text the messages have, calls and reasoning included."""
    count = 0
    for message in messages:
        count += len(message.text)
        if isinstance(message, AssistantMessage):
            count += len(message.reasoning)
            count += sum(len(call.arguments_json) for call in message.tool_calls)
    return count


@dataclass(frozen=True, slots=True, kw_only=True)
class Transcript:
    """Everything that a prompt is rendered from.

    `template_variables`, such as `enable_thinking`, are passed to the model's chat template. None
    of their names is in RESERVED_VARIABLES.
    """

    messages: tuple[Message, ...]
    system_prompt: str = ""
    tools: tuple[ToolDeclaration, ...] = ()
    template_variables: Mapping[str, JsonValue] = field(
        default_factory=lambda: MappingProxyType({})
    )
