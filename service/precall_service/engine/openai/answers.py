"""What is read of an answer of a server: no more than precall needs, and of the right types.

The OpenAI client checks no types, and servers leave fields out that the interface requires. The
parts of a streamed answer have a `delta`, and an answer as a whole has a `message` in its place.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, JsonValue


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Function(_Part):
    """The tool of a call, and its arguments or more of them."""

    name: str | None = None
    arguments: str | dict[str, JsonValue] | None = None


class CallPart(_Part):
    """A call, or more of it."""

    index: int | None = None
    id: str | None = None
    function: Function | None = None


class MessagePart(_Part):
    """A message, or more of it. Servers use two names for reasoning."""

    content: str | None = None
    refusal: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[CallPart] | None = None


class Choice(_Part):
    """What the model answers; vLLM's server says which stop text ended it."""

    delta: MessagePart | None = None
    message: MessagePart | None = None
    finish_reason: str | None = None
    stop_reason: Any = None


class PromptDetails(_Part):
    """The tokens of a prompt that were cached."""

    cached_tokens: int | None = None


class OutputDetails(_Part):
    """The tokens of an answer that were reasoning."""

    reasoning_tokens: int | None = None


class Usage(_Part):
    """The tokens of a step."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: PromptDetails | None = None
    completion_tokens_details: OutputDetails | None = None


class Answer(_Part):
    """An answer, or the next part of it."""

    choices: list[Choice] | None = None
    usage: Usage | None = None


def read(sent: object) -> Answer:
    """Returns what a server has sent, as the OpenAI client has read it.

    Raises:
        ValueError: it has the wrong types.
    """
    known = sent.model_dump(warnings=False) if isinstance(sent, BaseModel) else sent
    return Answer.model_validate(known)
