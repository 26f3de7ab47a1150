"""Turns a step's settings into vLLM's sampling parameters."""

from __future__ import annotations

from typing import Any

from vllm.config import ModelConfig, SpeculativeConfig, StructuredOutputsConfig
from vllm.sampling_params import RequestOutputKind, SamplingParams, StructuredOutputsParams
from vllm.tokenizers import TokenizerLike

from precall_service.engine.base import StepSpec


class _PlannedParams(SamplingParams):
    """Sampling parameters whose grammar has been verified with its plan.

    vLLM would verify it again for each step, in the event loop; 128 tools take 70 ms.
    """

    def verify(
        self,
        model_config: ModelConfig,
        speculative_config: SpeculativeConfig | None,
        structured_outputs_config: StructuredOutputsConfig | None,
        tokenizer: TokenizerLike | None,
    ) -> None:
        """As `SamplingParams.verify`, but for the grammar."""
        super().verify(model_config, speculative_config, None, tokenizer)


class StepSampling:
    """Makes the sampling parameters for the steps of one model."""

    def __init__(self, defaults: dict[str, Any]) -> None:
        """`defaults` are sampling parameters for what a step leaves out."""
        self._defaults = defaults

    def params(
        self, spec: StepSpec, grammar: StructuredOutputsParams | None, *, parsed: bool
    ) -> SamplingParams:
        """The sampling parameters of a step. `parsed` output keeps the special tokens.

        `grammar` is one of the step's plan, which has been verified.

        Raises:
            VLLMClientError: vLLM refuses a setting.
        """
        generation = spec.generation
        chosen = {
            "temperature": generation.temperature,
            "top_p": generation.top_p,
            "top_k": generation.top_k,
            "presence_penalty": generation.presence_penalty,
            "frequency_penalty": generation.frequency_penalty,
        }
        # One mapping, since the model's defaults may have settings that each step decides: the
        # `max_new_tokens` of a generation_config.json is a `max_tokens` here.
        settings: dict[str, Any] = {
            **self._defaults,
            **{name: value for name, value in chosen.items() if value is not None},
            "seed": generation.seed,
            "stop": list(generation.stop),
            "max_tokens": spec.max_tokens,
            "logprobs": 0 if spec.log_probabilities else None,  # of the sampled token alone
            "skip_special_tokens": not parsed,
            "structured_outputs": grammar,
            "output_kind": RequestOutputKind.DELTA,
            "skip_clone": True,
        }
        return _PlannedParams(**settings)
