"""vLLM's own speculative decoding (n-grams, draft models, EAGLE, MTP), as the operator has set it.

Such a method proposes the next tokens of any text. Drafts are of predicted calls only, and may be
used beside a method (`drafting`).

Owns: what of a method is refused at a start, and in which words.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from vllm.config import ModelConfig
from vllm.engine.arg_utils import AsyncEngineArgs

from precall_service.engine.base import EngineStartError
from precall_service.engine.vllm.pin_check import PinCheck

_SHORT: Final[Mapping[str, str]] = {
    "spec_method": "method",
    "spec_model": "model",
    "spec_tokens": "num_speculative_tokens",
}
"""vLLM's short arguments, and the fields of `speculative_config` that they stand for."""

_LOSSLESS: Final = frozenset({"standard", "block"})
"""Ways to reject drafted tokens that keep the distribution of the model."""

_NOT_ON_A_CPU: Final[Mapping[str, str]] = {
    "ngram_gpu": "looks for n-grams on a GPU. Set method to ngram",
    "dspark": "needs vLLM's Model Runner V2, which a CPU does not have. Leave it out",
}


def given_method(arguments: AsyncEngineArgs) -> dict[str, Any] | None:
    """The operator's `speculative_config`, with the short arguments among its fields.

    Raises:
        EngineStartError: a field is given twice.
    """
    given = {name.replace("-", "_"): value for name, value in _fields(arguments).items()}
    for short, name in _SHORT.items():
        value = getattr(arguments, short)
        if value is None:
            continue
        if name in given:
            raise EngineStartError(
                f"vLLM's --{short.replace('_', '-')} is also set as speculative_config.{name}: "
                "leave one of the two out"
            )
        given[name] = value
    return given or None


def _fields(arguments: AsyncEngineArgs) -> dict[str, Any]:
    return arguments.speculative_config or {}


def check_method(given: Mapping[str, Any], model_config: ModelConfig, vllm: PinCheck) -> None:
    """Returns if vLLM can use a method with this model, and answers stay those of the model.

    What vLLM refuses by itself, in its own words, is not checked here.

    Raises:
        EngineStartError: it cannot; the message names the argument.
    """
    if problem := _problem(given, model_config, vllm):
        raise EngineStartError(f"vLLM's speculative_config cannot be used: {problem}")


def _problem(given: Mapping[str, Any], model_config: ModelConfig, vllm: PinCheck) -> str:
    rejection = given.get("rejection_sample_method", "standard")
    if rejection not in _LOSSLESS:
        return (
            f"with rejection_sample_method {rejection}, answers would have tokens that the model "
            "has not chosen. Leave rejection_sample_method out"
        )
    if model_config.get_diff_sampling_param().get("min_p"):
        return (
            "the generation_config.json of the model sets min_p, which vLLM refuses with it. "
            "Leave speculative_config out, or the file with --generation-config vllm"
        )
    method = str(given.get("method"))
    if vllm.on_cpu and method in _NOT_ON_A_CPU:
        return f"method {method} {_NOT_ON_A_CPU[method]}"
    if reason := vllm.why_no_verification():
        return f"{reason}. Leave it out"
    return ""
