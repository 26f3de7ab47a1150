"""The prompts of this backend: messages, which the server renders."""

from __future__ import annotations

from dataclasses import dataclass

from precall_service.domain.messages import Transcript
from precall_service.engine.base import Prompt


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """The messages that a step starts from. The server alone knows how many tokens they are."""

    transcript: Transcript

    @property
    def tokens(self) -> None:
        """As `Prompt.tokens`."""


def own(prompt: Prompt) -> ChatPrompt:
    """Returns a prompt that this backend made.

    Raises:
        TypeError: another backend made it.
    """
    if not isinstance(prompt, ChatPrompt):
        raise TypeError(f"a {type(prompt).__name__} is not a prompt of a remote server")
    return prompt
