"""The room that the model's context window has for an answer."""

from __future__ import annotations

from precall_service.engine.base import Engine, Prompt


def room_for(engine: Engine, prompt: Prompt) -> int | None:
    """The tokens that fit after a prompt, 0 or less if it is too long; None if that is unknown."""
    most, used = engine.info.context_tokens_max, prompt.tokens
    return None if most is None or used is None else most - used
