"""The prompts of this backend: exact tokens."""

from __future__ import annotations

from dataclasses import dataclass

from precall_service.engine.base import Prompt


@dataclass(frozen=True, slots=True)
class TokenPrompt:
    """The exact tokens that a step starts from."""

    token_ids: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.token_ids)

    @property
    def tokens(self) -> int:
        """As `Prompt.tokens`."""
        return len(self.token_ids)


def own(prompt: Prompt) -> TokenPrompt:
    """Returns a prompt that this backend made.

    Raises:
        TypeError: another backend made it.
    """
    if not isinstance(prompt, TokenPrompt):
        raise TypeError(f"a {type(prompt).__name__} is not a prompt of this engine")
    return prompt
