"""Says in our terms what vLLM's outputs and errors mean."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, cast

from vllm.logprobs import Logprob
from vllm.outputs import CompletionOutput

from precall_service.engine.base import (
    GenerationFailedError,
    GenerationRefusedError,
    Piece,
    TextPiece,
)
from precall_service.engine.vllm.parsing import StepParser

_GENERATION_FIELDS: Final = frozenset(
    {
        "temperature",
        "top_p",
        "top_k",
        "seed",
        "stop",
        "presence_penalty",
        "frequency_penalty",
    }
)
"""Parameters that vLLM and the contract's GenerationSettings call by the same name."""


def pieces_of(completion: CompletionOutput, parser: StepParser | None) -> Iterable[Piece]:
    """The pieces that the tokens of an output complete."""
    if parser is not None:
        return parser.feed(completion.text, tuple(completion.token_ids))
    return (TextPiece(completion.text),) if completion.text else ()


def log_probabilities(completion: CompletionOutput) -> tuple[float, ...]:
    """The log probabilities of the tokens of an output; none if they were not asked for."""
    if completion.logprobs is None:
        return ()
    positions = cast("list[dict[int, Logprob]]", completion.logprobs)
    each = zip(completion.token_ids, positions, strict=True)
    return tuple(by_token[token_id].logprob for token_id, by_token in each)


def given_up() -> GenerationFailedError:
    """The error for a generation that the engine has given up."""
    return GenerationFailedError(
        "the engine gave this generation up: send the turn again, with a new turn id"
    )


def refused(error: Exception) -> GenerationRefusedError:
    """The error for what vLLM refuses; its field is empty if the contract has no such field."""
    parameter = getattr(error, "parameter", None)
    return GenerationRefusedError(
        f"the engine refuses this step: {str(error) or type(error).__name__}",
        field=f"start_turn.generation.{parameter}" if parameter in _GENERATION_FIELDS else "",
    )
