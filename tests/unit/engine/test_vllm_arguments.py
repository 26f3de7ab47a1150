"""Every argument of vLLM's engine can be given, except those that precall has to set itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from precall_service.domain.json import JsonValue
from precall_service.engine.base import EngineStartError
from precall_service.engine.vllm.config import VllmConfig
from tests.support.prompt_renderers import tokenizer


def arguments(
    *command_line: str, settings: Mapping[str, JsonValue] | None = None, **config: Any
) -> Any:
    on_cpu = config.pop("on_cpu", True)
    tokenizer()  # first, since it imports vLLM as precall does
    from precall_service.engine.vllm.arguments import engine_arguments

    return engine_arguments(
        VllmConfig(
            model="some/model",
            model_name="model",
            arguments=command_line,
            settings=settings or {},
            **config,
        ),
        on_cpu=on_cpu,
    )


def test_the_defaults_on_a_cpu_are_for_a_laptop() -> None:
    args = arguments()
    assert args.model == "some/model"
    assert args.scheduling_policy == "priority"
    assert (args.block_size, args.max_num_seqs, args.kv_cache_memory_bytes) == (32, 16, 1 << 30)
    assert args.enforce_eager


def test_on_a_gpu_vllm_decides() -> None:
    args = arguments(on_cpu=False)
    from vllm.engine.arg_utils import AsyncEngineArgs

    plain = AsyncEngineArgs(model="some/model")
    changed = {name for name in vars(plain) if getattr(args, name) != getattr(plain, name)}
    assert changed == {"scheduling_policy", "use_tqdm_on_load"}


def test_the_command_line_wins_over_settings_and_both_over_defaults() -> None:
    args = arguments("--max-num-seqs", "3", settings={"max_num_seqs": 5, "block_size": 64})
    assert (args.max_num_seqs, args.block_size) == (3, 64)


def test_the_cache_size_applies_on_both_devices() -> None:
    for on_cpu in (True, False):
        assert arguments(kv_cache_bytes=1 << 28, on_cpu=on_cpu).kv_cache_memory_bytes == 1 << 28
    given = arguments("--kv-cache-memory-bytes", str(1 << 27), kv_cache_bytes=1 << 28)
    assert given.kv_cache_memory_bytes == 1 << 27


def test_settings_take_every_kind_of_value() -> None:
    args = arguments(
        settings={
            "enforce_eager": False,
            "trust-remote-code": True,
            "dtype": "float32",
            "gpu_memory_utilization": 0.5,
            "cudagraph_capture_sizes": [1, 2, 4],
            "hf_overrides": {"num_hidden_layers": 6},
            "compilation_config": {"mode": 0},
            "revision": None,
        }
    )
    assert (args.enforce_eager, args.trust_remote_code, args.dtype) == (False, True, "float32")
    assert (args.gpu_memory_utilization, args.cudagraph_capture_sizes) == (0.5, [1, 2, 4])
    assert args.hf_overrides == {"num_hidden_layers": 6}
    assert args.compilation_config.mode == 0


def test_an_on_off_argument_may_be_text_as_in_a_variable() -> None:
    settings: dict[str, JsonValue] = {
        "enforce_eager": "false", "trust_remote_code": "True", "disable_log_stats": "true",
        "dtype": "float32",
    }  # fmt: skip
    args = arguments(settings=settings)
    assert (args.enforce_eager, args.trust_remote_code, args.disable_log_stats) == (
        False, True, True,
    )  # fmt: skip
    with pytest.raises(EngineStartError, match="--enforce-eager is 'yes', and must be true or"):
        arguments(settings={"enforce_eager": "yes"})


def test_dotted_arguments_and_underscores_are_vllms_own() -> None:
    args = arguments("--max_num_seqs=7", "--compilation-config.mode", "0", "--no-enforce-eager")
    assert (args.max_num_seqs, args.compilation_config.mode, args.enforce_eager) == (7, 0, False)


@pytest.mark.parametrize(
    ("command_line", "told"),
    [
        (("--max-num-seq", "3"), "no argument --max-num-seq; did you mean --max-num-seqs"),
        (("--tensor-paralel-size=2",), "did you mean --tensor-parallel-size"),
        (("--dtype", "float3"), "--dtype: invalid choice: 'float3'"),
        (("--max-num-seqs", "many"), "--max-num-seqs"),
        (("--model", "other"), "name the model with precall's own --model"),
        (("--served-model-name", "other"), "the model's own name"),
        (("--tool-call-parser", "hermes"), "the parser with precall's own --tool-call-parser"),
        (("--tool_call_parser=hermes",), "the parser with precall's own --tool-call-parser"),
        (("--enable-auto-tool-choice",), "may always call tools"),
        (("--reasoning-parser", "qwen3"), "the parser with precall's own --reasoning-parser"),
        (("--chat-template", "t.jinja"), "the template with precall's own --chat-template"),
        (("--host", "0.0.0.0"), "the interface with precall's own --host"),
        (("--port", "80"), "the port with precall's own --port"),
        (("--data-parallel-size", "2"), "run a service for each rank, behind a load balancer"),
        (("-dp", "2"), "run a service for each rank, behind a load balancer"),
        (("--enable-lora",), "no client can choose an adapter"),
        (("--scheduling-policy", "fcfs"), "steps that continue a turn go before"),
        (("--scheduler-cls", "my.Scheduler"), "what the engine holds"),
        (("--no-enable-prefix-caching",), "the cached tokens of the step before"),
        (("--skip-tokenizer-init",), "rendered and calls are parsed with the tokenizer"),
        (("--runner", "pooling"), "must generate text"),
        (("--max-num-queued-reqs", "9"), "turns wait in precall's queue"),
        (("--log-level", "DEBUG"), "engine.log_level"),
        (("--shutdown-timeout", "9"), "lets turns finish"),
        (("--config", "file.yaml"), "settings file"),
        (("--structured-outputs-config.backend", "guidance"), "engine.structured_calls"),
    ],
)
def test_a_refusal_says_why(command_line: tuple[str, ...], told: str) -> None:
    with pytest.raises(EngineStartError) as refusal:
        arguments(*command_line)
    assert told in str(refusal.value)


def test_values_that_change_nothing_are_accepted() -> None:
    args = arguments(
        "--enable-prefix-caching", "--scheduling-policy", "priority", "--runner", "generate",
        "--data-parallel-size", "1", "--no-enable-lora",
    )  # fmt: skip
    assert args.enable_prefix_caching


def test_another_grammar_backend_is_accepted_without_structured_calls() -> None:
    given = ("--structured-outputs-config.backend", "guidance")
    args = arguments(*given, structured_calls=False)
    assert args.structured_outputs_config.backend == "guidance"


def test_an_unknown_setting_names_the_nearest() -> None:
    with pytest.raises(EngineStartError, match="did you mean --block-size"):
        arguments(settings={"blok_size": 64})


def test_the_documentation_names_every_argument_that_is_refused() -> None:
    arguments()
    from precall_service.engine.vllm.arguments import _OWNED  # pyright: ignore[reportPrivateUsage]

    told = (Path(__file__).parents[3] / "docs" / "configuration.md").read_text()
    assert not [name for name in _OWNED if f"`{name}`" not in told]


def test_a_refused_setting_names_precalls_own() -> None:
    with pytest.raises(EngineStartError, match="precall's own --tool-call-parser"):
        arguments(settings={"tool_call_parser": "hermes"})
