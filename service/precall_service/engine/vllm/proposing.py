"""What makes vLLM's engine ready to verify drafts: a proposer that proposes none, and its settings.

The scheduler has the drafts (`scheduling`). Workers verify tokens only if speculative decoding is
on, and that needs a proposer.

Never: vLLM itself, so that the service does not depend on what only drafts need of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

SCHEDULER: Final = "precall_service.engine.vllm.scheduling.Scheduler"
"""The scheduler that has the drafts, as vLLM's argument `scheduler_cls`."""
ASYNC_SCHEDULER: Final = "precall_service.engine.vllm.scheduling.AsyncScheduler"
"""The same for an engine that schedules a step before the one before it has ended."""

STAGE_UTILITY: Final = "precall_stage"
DRAFTS_ARGUMENT: Final = "precall_drafts"
"""The extra argument of a request that has its drafts."""

DRAFTS_FIELD: Final = "precall_drafts"
"""The field of a step, as an `AsyncScheduler` schedules it, that has its drafts."""

DRAFT_TOKENS_A_STEP: Final = 48
"""The most tokens of a draft that one step of the engine verifies."""
AHEAD_TOKENS_A_STEP: Final = 64
"""The same with an `AsyncScheduler`."""
AHEAD_ROWS_MAX: Final = 64
"""The most rows of a step after which an `AsyncScheduler` has drafts verified. For more, vLLM would
have to capture larger CUDA graphs."""
TOKENS_GIVEN_MAX: Final = 256
"""The most tokens of a draft that workers are given for one step. They must reach over those that
are under way."""


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

_WIDENED: Final = frozenset({"ngram", "draft_model"})
"""Methods that propose as many tokens as the scheduler asks for, which may be fewer than a step
verifies."""


def speculative_config(given: Mapping[str, Any] | None) -> dict[str, Any]:
    """What vLLM's argument `speculative_config` is for drafts, beside the operator's own method.

    vLLM has one number for the tokens that a method proposes and for those that a step verifies,
    unless the first depends on the size of the batch. With such a dependence vLLM also adds no
    tokens to steps that have none to verify.
    """
    if given is None:
        return {
            "method": "custom_class",
            "model": PROPOSER,
            "num_speculative_tokens": DRAFT_TOKENS_A_STEP,
            "num_speculative_tokens_per_batch_size": [(1, 1, DRAFT_TOKENS_A_STEP)],
        }
    proposed = given.get("num_speculative_tokens")
    if (
        given.get("method") not in _WIDENED
        or given.get("parallel_drafting")
        or given.get("num_speculative_tokens_per_batch_size")
        or not isinstance(proposed, int)
        or proposed >= DRAFT_TOKENS_A_STEP
    ):
        return dict(given)
    return {
        **given,
        "num_speculative_tokens": DRAFT_TOKENS_A_STEP,
        "num_speculative_tokens_per_batch_size": [(1, 1, proposed)],
    }


def speculative_config_ahead() -> dict[str, Any]:
    """The same for an `AsyncScheduler`, beside no other method.

    Of vLLM's methods for async scheduling, `ngram_gpu` is the one without a model. Workers replace
    its proposer with ours (`gpu_worker`). The dependence on the size of the batch has vLLM capture
    CUDA graphs for steps without tokens to verify, too.
    """
    return {
        "method": "ngram_gpu",
        "num_speculative_tokens": AHEAD_TOKENS_A_STEP,
        "num_speculative_tokens_per_batch_size": [
            (1, AHEAD_ROWS_MAX, AHEAD_TOKENS_A_STEP),
            (AHEAD_ROWS_MAX + 1, AHEAD_ROWS_MAX + 1, 0),
        ],
    }


def proposed_tokens_max(config: Any) -> int:
    """The most tokens that the method of a speculative configuration of vLLM's proposes."""
    by_size = config.num_speculative_tokens_per_batch_size
    return max(each[2] for each in by_size) if by_size else config.num_speculative_tokens


def is_ours(config: Any) -> bool:
    """Whether a speculative configuration of vLLM's has this proposer."""
    return config is not None and getattr(config, "model", None) == PROPOSER
