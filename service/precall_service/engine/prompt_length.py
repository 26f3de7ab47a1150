"""The error of a prompt that is too long, whether the engine or the turn finds out."""

from __future__ import annotations

from precall_service.domain.errors import Reason, ServiceError


class PromptTooLongError(ServiceError):
    """A prompt leaves no room for an answer in the context window.

    `at_least` says that the engine has stopped counting its tokens.
    """

    def __init__(self, tokens: int, *, limit: int, at_least: bool = False) -> None:
        super().__init__(
            Reason.CONTEXT_WINDOW_EXCEEDED,
            f"the prompt has {'at least ' if at_least else ''}{tokens} tokens, but the model's "
            f"context window has {limit} and must hold the answer too: shorten the conversation, "
            "its tools or their results",
            metadata={"prompt_tokens": str(tokens), "limit": str(limit)},
        )
