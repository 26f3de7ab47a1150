"""The room that the model's context window has for an answer."""

from __future__ import annotations

from precall_service.engine.base import Engine, Prompt


def within_room(engine: Engine, prompt: Prompt, tokens: int) -> int:
    """Returns how many of these tokens fit after a prompt; 0 or less if the prompt is too long.

    All of them do if the engine does not know its context window or the length of the prompt.
    """
    most, used = engine.info.context_tokens_max, prompt.tokens
    return tokens if most is None or used is None else min(tokens, most - used)
