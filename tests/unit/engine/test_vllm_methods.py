"""The operator's own speculative decoding: what of it is refused, and how drafts go beside it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from precall_service.engine.base import EngineStartError
from precall_service.engine.vllm.config import VllmConfig
from precall_service.engine.vllm.pin_check import PinCheck
from precall_service.engine.vllm.pinned import VERIFIED_VERSION, Part
from precall_service.engine.vllm.proposing import (
    DRAFT_TOKENS_A_STEP,
    PROPOSER,
    is_ours,
    proposed_tokens_max,
    speculative_config,
)
from tests.support.prompt_renderers import tokenizer

VLLM = PinCheck(VERIFIED_VERSION, on_cpu=True, lacking={})
NGRAM = {"method": "ngram", "num_speculative_tokens": 5, "prompt_lookup_max": 4}


def arguments(*command_line: str, **settings: Any) -> Any:
    tokenizer()  # first, since it imports vLLM as precall does
    from precall_service.engine.vllm.arguments import engine_arguments

    config = VllmConfig(
        model="some/model", model_name="model", arguments=command_line, settings=settings
    )
    return engine_arguments(config, on_cpu=True)


def given(*command_line: str, **settings: Any) -> dict[str, Any] | None:
    args = arguments(*command_line, **settings)
    from precall_service.engine.vllm.methods import given_method

    return given_method(args)


def check(method: dict[str, Any], vllm: PinCheck = VLLM, **generation: Any) -> None:
    tokenizer()
    from precall_service.engine.vllm.methods import check_method

    model = SimpleNamespace(get_diff_sampling_param=lambda: generation)
    check_method(method, cast("Any", model), vllm)


def test_a_method_is_given_as_vllm_takes_it() -> None:
    assert given() is None
    assert given(speculative_config=NGRAM) == NGRAM
    short = given("--spec-method", "ngram", "--spec-tokens", "5")
    assert short == {"method": "ngram", "num_speculative_tokens": 5}
    assert given("--speculative-config.prompt-lookup-max", "4", "--spec-method", "ngram") == {
        "method": "ngram",
        "prompt_lookup_max": 4,
    }


def test_a_field_that_is_given_twice_is_named() -> None:
    with pytest.raises(EngineStartError, match="--spec-method is also set as speculative_config"):
        given("--spec-method", "ngram", speculative_config=NGRAM)


def test_a_method_is_accepted() -> None:
    check(NGRAM)
    check(NGRAM | {"rejection_sample_method": "block"}, temperature=0.7)


@pytest.mark.parametrize(
    ("more", "generation", "told"),
    [
        ({"rejection_sample_method": "synthetic"}, {}, "Leave rejection_sample_method out"),
        ({"rejection_sample_method": "fly"}, {}, "that the model has not chosen"),
        ({}, {"min_p": 0.1}, "--generation-config vllm"),
        ({"method": "ngram_gpu"}, {}, "Set method to ngram"),
        ({"method": "dspark"}, {}, "method dspark needs vLLM's Model Runner V2"),
    ],
)
def test_a_refusal_says_what_to_do(
    more: dict[str, Any], generation: dict[str, Any], told: str
) -> None:
    with pytest.raises(EngineStartError, match="vLLM's speculative_config cannot be used") as error:
        check(NGRAM | more, **generation)
    assert told in str(error.value)


def test_methods_for_a_gpu_are_accepted_there() -> None:
    check(NGRAM | {"method": "ngram_gpu"}, PinCheck(VERIFIED_VERSION, on_cpu=False, lacking={}))


def test_no_method_is_used_where_the_sampler_of_a_cpu_differs() -> None:
    lacking = {Part.CPU_VERIFICATION: "it has no sampler"}
    with pytest.raises(EngineStartError, match=r"it has no sampler\. Leave it out"):
        check(NGRAM, PinCheck(VERIFIED_VERSION, on_cpu=True, lacking=lacking))
    check(NGRAM, PinCheck(VERIFIED_VERSION, on_cpu=False, lacking=lacking))


def test_drafts_alone_have_a_proposer_that_proposes_nothing() -> None:
    config = SimpleNamespace(**speculative_config(None))
    assert is_ours(config)
    assert config.model == PROPOSER
    assert config.num_speculative_tokens == DRAFT_TOKENS_A_STEP


def test_beside_drafts_a_method_proposes_as_much_as_without() -> None:
    config = speculative_config(NGRAM)
    assert config["num_speculative_tokens"] == DRAFT_TOKENS_A_STEP
    assert proposed_tokens_max(SimpleNamespace(**config)) == NGRAM["num_speculative_tokens"]
    assert not is_ours(SimpleNamespace(**config))
    assert NGRAM["num_speculative_tokens"] == 5, "what the operator gave is not changed"


@pytest.mark.parametrize(
    "method",
    [
        NGRAM | {"num_speculative_tokens": DRAFT_TOKENS_A_STEP + 1},
        NGRAM | {"num_speculative_tokens_per_batch_size": [(1, 4, 5), (5, 16, 2)]},
        {"method": "eagle3", "model": "some/head", "num_speculative_tokens": 3},
        {"method": "draft_model", "parallel_drafting": True, "num_speculative_tokens": 3},
        {"model": "some/head"},
    ],
)
def test_other_methods_are_left_as_they_are(method: dict[str, Any]) -> None:
    assert speculative_config(method) == method


def test_by_batch_size_the_most_that_is_proposed_counts() -> None:
    config = SimpleNamespace(
        num_speculative_tokens=48, num_speculative_tokens_per_batch_size=[(1, 4, 5), (5, 16, 2)]
    )
    assert proposed_tokens_max(config) == 5
    config.num_speculative_tokens_per_batch_size = None
    assert proposed_tokens_max(config) == 48
