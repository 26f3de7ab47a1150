"""The proposer that makes vLLM's workers ready to verify drafts, and proposes none itself.

The scheduler has the drafts (`scheduling`). Workers verify tokens only if speculative decoding is
on, and that needs a proposer.
"""

from __future__ import annotations

from typing import Any, Final

DRAFT_TOKENS_A_STEP: Final = 48
"""The most tokens of a draft that one step of the engine verifies."""


class NoProposer:
    """As vLLM's `custom_class` proposers (vllm/v1/spec_decode/custom_class_proposer.py)."""

    def __init__(self, vllm_config: Any) -> None:
        """Takes what vLLM gives to every proposer."""

    def load_model(self, *_: Any, **__: Any) -> None:
        """Loads nothing."""

    def propose(self, sampled_token_ids: list[list[int]], *_: Any, **__: Any) -> list[list[int]]:
        """No tokens for any row."""
        return [[] for _ in sampled_token_ids]


PROPOSER: Final = f"{__name__}.{NoProposer.__name__}"


def speculative_config() -> dict[str, Any]:
    """What vLLM's argument `speculative_config` is for drafts without another method."""
    return {
        "method": "custom_class",
        "model": PROPOSER,
        "num_speculative_tokens": DRAFT_TOKENS_A_STEP,
    }


def is_ours(config: Any) -> bool:
    """Whether a speculative configuration of vLLM's has this proposer."""
    return config is not None and getattr(config, "model", None) == PROPOSER
