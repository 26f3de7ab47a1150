"""A start decides whether the engine verifies drafts, and says why where it does not."""

from __future__ import annotations

import logging
from dataclasses import replace
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import pytest

from precall_service.domain.json import JsonValue
from precall_service.engine.base import EngineStartError
from precall_service.engine.vllm.pin_check import PinCheck
from precall_service.engine.vllm.pinned import VERIFIED_VERSION, Part
from precall_service.engine.vllm.proposing import (
    AHEAD_TOKENS_A_STEP,
    ASYNC_SCHEDULER,
    DRAFT_TOKENS_A_STEP,
    PROPOSER,
    SCHEDULER,
)
from tests.support.engine_keeper import embedded_config
from tests.support.prompt_renderers import tokenizer

NGRAM: JsonValue = {"method": "ngram", "num_speculative_tokens": 5, "prompt_lookup_max": 4}
PLAIN = "precall_service.engine.vllm.utilities.Scheduler"


@pytest.fixture
def start() -> ModuleType:
    tokenizer()  # first, since it imports vLLM as precall does
    from precall_service.engine.vllm import start

    return start


def created(start: ModuleType, *, drafts: bool = True, **settings: JsonValue) -> Any:
    return start.created_config(replace(embedded_config(**settings), drafts=drafts))


def installed(monkeypatch: pytest.MonkeyPatch, start: ModuleType, found: PinCheck) -> None:
    from precall_service.engine.vllm import drafting

    for module in (start, drafting):
        monkeypatch.setattr(module, "installed_vllm", lambda: found)


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    texts = [record.getMessage() for record in caplog.records]
    return [text for text in texts if text.startswith("predicted calls are not verified")]


def test_drafts_have_our_scheduler_and_a_proposer_of_nothing(
    start: ModuleType, caplog: pytest.LogCaptureFixture
) -> None:
    config = created(start)
    assert config.scheduler_config.scheduler_cls == SCHEDULER
    assert config.speculative_config.model == PROPOSER
    assert config.num_speculative_tokens == DRAFT_TOKENS_A_STEP
    by_size = config.speculative_config.num_speculative_tokens_per_batch_size
    assert by_size, "or vLLM fills steps up with tokens that it verifies for nothing"
    assert not told(caplog)


def test_without_drafts_the_scheduler_is_vllms_own(
    start: ModuleType, caplog: pytest.LogCaptureFixture
) -> None:
    config = created(start, drafts=False)
    assert config.scheduler_config.scheduler_cls == PLAIN
    assert config.speculative_config is None
    assert not told(caplog), "the operator has turned them off"


def test_a_method_goes_beside_drafts(start: ModuleType) -> None:
    config = created(start, speculative_config=NGRAM)
    assert config.scheduler_config.scheduler_cls == SCHEDULER
    assert config.speculative_config.method == "ngram"
    assert config.num_speculative_tokens == DRAFT_TOKENS_A_STEP
    assert config.speculative_config.num_speculative_tokens_per_batch_size == [(1, 1, 5)]


def test_a_method_is_left_as_it_is_without_drafts(start: ModuleType) -> None:
    config = created(start, drafts=False, spec_method="ngram", spec_tokens=5)
    assert config.scheduler_config.scheduler_cls == PLAIN
    assert (config.speculative_config.method, config.num_speculative_tokens) == ("ngram", 5)


def test_the_short_arguments_go_beside_drafts(start: ModuleType) -> None:
    config = created(start, spec_method="ngram", spec_tokens=5)
    assert config.speculative_config.method == "ngram"
    assert config.num_speculative_tokens == DRAFT_TOKENS_A_STEP


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (
            PinCheck("0.33.0", on_cpu=True, lacking={}),
            f"that was tested with vLLM {VERIFIED_VERSION}, and 0.33.0 is installed",
        ),
        (PinCheck(VERIFIED_VERSION, on_cpu=True, lacking={Part.DRAFTS: "no hook"}), "no hook"),
        (
            PinCheck(VERIFIED_VERSION, on_cpu=True, lacking={Part.CPU_VERIFICATION: "no sampler"}),
            "no sampler",
        ),
    ],
)
def test_with_another_vllm_drafts_are_off_and_one_line_says_why(
    start: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    found: PinCheck,
    reason: str,
) -> None:
    installed(monkeypatch, start, found)
    with caplog.at_level(logging.WARNING):
        config = created(start)
    assert config.scheduler_config.scheduler_cls == PLAIN
    assert config.speculative_config is None
    assert told(caplog) == [f"predicted calls are not verified in the engine: {reason}"]


def test_drafts_are_off_where_a_method_needs_probabilities(
    start: ModuleType, caplog: pytest.LogCaptureFixture
) -> None:
    method: JsonValue = {
        "method": "draft_model",
        "model": embedded_config().model,
        "num_speculative_tokens": 3,
        "draft_sample_method": "probabilistic",
    }
    config = created(start, speculative_config=method)
    assert config.scheduler_config.scheduler_cls == PLAIN
    assert config.num_speculative_tokens == 3
    (line,) = told(caplog)
    assert "draft_sample_method is probabilistic" in line


ON_GPU = PinCheck(VERIFIED_VERSION, on_cpu=False, lacking={})


def test_where_a_gpu_verifies_no_drafts(
    start: ModuleType, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def why(asked: bool | None, found: PinCheck = ON_GPU, **settings: Any) -> str:
        caplog.clear()
        installed(monkeypatch, start, found)
        assert on_gpu(asked, **settings) is None
        (line,) = told(caplog)
        return line

    assert "has not been measured yet. Set engine.drafts to true" in why(None)
    assert "go together with vLLM's speculative_config" in why(True, speculative_config=NGRAM)
    assert "with data parallelism" in why(True, data_parallel_size=2)
    assert "with pipeline parallelism" in why(True, pipeline_parallel_size=2)
    assert "no runner" in why(True, replace(ON_GPU, lacking={Part.GPU_DRAFTS: "no runner"}))


def on_gpu(asked: bool | None, **settings: Any) -> Any:
    from vllm.engine.arg_utils import AsyncEngineArgs

    from precall_service.engine.vllm import drafting, methods

    arguments = AsyncEngineArgs(model=embedded_config().model, **settings)
    return drafting.prepare_for_drafts(
        arguments,
        methods.given_method(arguments),
        arguments.create_model_config(),
        on_cpu=False,
        asked=asked,
    )


def test_on_a_gpu_drafts_are_for_steps_that_are_scheduled_ahead(
    start: ModuleType, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    installed(monkeypatch, start, ON_GPU)
    arguments = on_gpu(True)
    assert arguments.speculative_config["method"] == "ngram_gpu"
    assert arguments.speculative_config["num_speculative_tokens"] == AHEAD_TOKENS_A_STEP

    from precall_service.engine.vllm.drafting import scheduler_for_drafts

    def scheduler(*, ahead: bool, second: bool) -> str | None:
        scheduling = SimpleNamespace(async_scheduling=ahead)
        config = SimpleNamespace(scheduler_config=scheduling, use_v2_model_runner=second)
        return scheduler_for_drafts(cast("Any", config), on_cpu=False)

    assert scheduler(ahead=True, second=True) == ASYNC_SCHEDULER
    assert not told(caplog)
    assert scheduler(ahead=False, second=True) is None
    assert scheduler(ahead=True, second=False) is None
    assert all("needs async scheduling and Model Runner V2" in line for line in told(caplog))


def test_a_method_that_cannot_be_used_ends_the_start(
    start: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(
        monkeypatch,
        start,
        PinCheck(VERIFIED_VERSION, on_cpu=True, lacking={Part.CPU_VERIFICATION: "no sampler"}),
    )
    with pytest.raises(EngineStartError, match=r"speculative_config cannot be used: no sampler\."):
        created(start, speculative_config=NGRAM)
