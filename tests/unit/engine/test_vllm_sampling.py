"""Sampling parameters: what a step sets, and what the model's defaults leave to it."""

from __future__ import annotations

from typing import Any

from precall_service.domain.turn import GenerationSettings
from precall_service.engine.base import StepSpec
from tests.support.prompt_renderers import model_config, tokenizer
from tests.support.steps import step_spec


def params(spec: StepSpec, *, parsed: bool = False, **defaults: Any) -> Any:
    tokenizer()  # first, since it imports vLLM as precall does
    from precall_service.engine.vllm.sampling import StepSampling

    return StepSampling(defaults).params(spec, None, parsed=parsed)


def test_settings_left_out_are_the_models_defaults() -> None:
    spec = step_spec(max_tokens=9, generation=GenerationSettings(top_p=0.5, seed=7, stop=("END",)))
    made = params(spec, temperature=0.6, top_k=20)
    assert (made.temperature, made.top_k, made.top_p) == (0.6, 20, 0.5)
    assert (made.seed, made.stop, made.max_tokens) == (7, ["END"], 9)
    assert made.skip_special_tokens
    greedy = step_spec(generation=GenerationSettings(temperature=0.0))
    made = params(greedy, parsed=True, temperature=0.6, top_k=20)
    assert made.temperature == 0.0
    assert not made.skip_special_tokens


def test_penalties_of_a_step_reach_the_engine() -> None:
    spec = step_spec(generation=GenerationSettings(frequency_penalty=-0.5))
    made = params(spec, presence_penalty=1.5)
    assert (made.presence_penalty, made.frequency_penalty) == (1.5, -0.5)


def test_settings_of_a_step_replace_the_models_defaults() -> None:
    """A generation_config.json may have max_new_tokens, for example."""
    spec = step_spec(max_tokens=9, generation=GenerationSettings(seed=7))
    made = params(spec, max_tokens=2048, seed=3, stop=["X"])
    assert (made.max_tokens, made.seed, made.stop) == (9, 7, [])


def test_everything_but_the_grammar_is_verified_for_each_step() -> None:
    """The grammar has been, with its plan: this one would be refused."""
    spec = step_spec(log_probabilities=True)
    made = params(spec)
    from vllm.sampling_params import StructuredOutputsParams

    made.structured_outputs = StructuredOutputsParams(structural_tag="no tag")
    made.verify(model_config(), None, None, tokenizer())
