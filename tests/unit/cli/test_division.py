"""How the machine is divided between two engines, and what is refused because both do not fit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from precall_service.cli.check import Verdict
from precall_service.cli.checks import check_draft_model
from precall_service.cli.division import Machine, divided, this_machine
from precall_service.cli.errors import CommandError
from precall_service.cli.launch import draft_config, draft_server
from precall_service.cli.machine import gpu_memory_bytes
from precall_service.domain.events import Predictor
from precall_service.engine.models import ResolvedModel
from precall_service.engine.vllm.config import VllmConfig
from precall_service.settings import load_settings
from precall_service.settings.speculation import DraftModelSection

GIB = 1 << 30
CPU = Machine(cores=(0, 1, 2, 3, 4, 5, 6, 7), memory_bytes=16 * GIB, gpu_memory=None)
GPU = replace(CPU, gpu_memory=(80 * GIB, 79 * GIB))
SECTION = DraftModelSection(model="small")


def model(folder: Path, weights_bytes: int, **fields: object) -> VllmConfig:
    """The configuration of an engine whose weights take so much."""
    folder.mkdir()
    with (folder / "model.safetensors").open("wb") as file:
        file.truncate(weights_bytes)
    config = VllmConfig(model=str(folder), model_name=folder.name)
    return replace(config, **fields)  # pyright: ignore[reportArgumentType]


@pytest.fixture
def main(tmp_path: Path) -> VllmConfig:
    return model(tmp_path / "large", 4 * GIB)


@pytest.fixture
def draft(tmp_path: Path) -> VllmConfig:
    return model(tmp_path / "small", GIB, kv_cache_bytes=GIB // 2)


@pytest.mark.parametrize(
    ("cores", "asked", "own"),
    [
        ((0, 1), None, {1}),
        ((4, 5, 6), None, {6}),
        (tuple(range(8)), None, {6, 7}),
        (tuple(range(8)), 3, {5, 6, 7}),
    ],
)
def test_each_engine_has_cores_of_its_own(
    main: VllmConfig, draft: VllmConfig, cores: tuple[int, ...], asked: int | None, own: set[int]
) -> None:
    section = DraftModelSection(model="small", cores=asked)
    first, second = divided(main, draft, section, replace(CPU, cores=cores))
    assert second.cores == own
    assert first.cores == set(cores) - own


def test_one_core_is_shared(main: VllmConfig, draft: VllmConfig) -> None:
    assert divided(main, draft, SECTION, replace(CPU, cores=(3,))) == (main, draft)


@pytest.mark.parametrize("asked", [2, 3])
def test_cores_that_leave_none_to_the_turns_are_refused(
    main: VllmConfig, draft: VllmConfig, asked: int
) -> None:
    section = DraftModelSection(model="small", cores=asked)
    with pytest.raises(CommandError, match=f"cores is {asked}, and this process may use 2"):
        divided(main, draft, section, replace(CPU, cores=(0, 1)))


def test_a_binding_of_the_operator_would_bind_both(main: VllmConfig, draft: VllmConfig) -> None:
    with pytest.raises(CommandError, match=r"VLLM_CPU_OMP_THREADS_BIND is '0-3'"):
        divided(main, draft, SECTION, replace(CPU, binding="0-3"))
    divided(main, draft, SECTION, replace(CPU, binding="auto"))


def test_what_does_not_fit_into_memory_is_refused_with_the_numbers(
    main: VllmConfig, draft: VllmConfig
) -> None:
    needed = (4 + 1 + 1 + 0.5 + 4) * GIB
    divided(main, draft, SECTION, replace(CPU, memory_bytes=int(needed)))
    with pytest.raises(CommandError) as refused:
        divided(main, draft, SECTION, replace(CPU, memory_bytes=int(needed) - 1))
    assert str(refused.value).startswith(
        "the engine and that of the draft model do not fit into memory: they need 10.5 GiB "
        "(weights 4.0 and 1.0 GiB, KV cache 1.0 and 0.5 GiB, processes 4.0 GiB), and 10.5 GiB are "
        "free"
    )


def test_a_model_that_is_not_here_yet_is_not_counted(draft: VllmConfig) -> None:
    main = VllmConfig(model="some/model", model_name="model")
    divided(main, draft, SECTION, replace(CPU, memory_bytes=7 * GIB))


def test_a_gpu_is_divided_by_its_memory(main: VllmConfig, draft: VllmConfig) -> None:
    first, second = divided(main, draft, SECTION, GPU)
    assert first.settings["gpu_memory_utilization"] == pytest.approx(0.72)
    assert second.settings["gpu_memory_utilization"] == 0.2
    assert first.cores is second.cores is None


def test_what_the_operator_gives_the_engine_counts(main: VllmConfig, draft: VllmConfig) -> None:
    main = replace(main, settings={"gpu_memory_utilization": 0.5, "max_num_seqs": 8})
    first, _ = divided(main, draft, SECTION, GPU)
    assert first.settings == {"gpu_memory_utilization": 0.5, "max_num_seqs": 8}


@pytest.mark.parametrize(
    ("utilization", "free", "told"),
    [
        (0.9, 79, "fractions of 0.90 and 0.20 are 88.0 GiB, and 79.0 of 80.0 GiB are free"),
        (None, 40, "fractions of 0.72 and 0.20 are 73.6 GiB, and 40.0 of 80.0 GiB are free"),
    ],
)
def test_parts_of_a_gpu_that_do_not_fit_are_refused_with_the_numbers(
    main: VllmConfig, draft: VllmConfig, utilization: float | None, free: int, told: str
) -> None:
    if utilization is not None:
        main = replace(main, settings={"gpu_memory_utilization": utilization})
    with pytest.raises(CommandError) as refused:
        divided(main, draft, SECTION, replace(GPU, gpu_memory=(80 * GIB, free * GIB)))
    assert told in str(refused.value)


def test_a_model_that_exceeds_its_part_of_a_gpu_is_refused_with_the_numbers(
    main: VllmConfig, tmp_path: Path
) -> None:
    large = model(tmp_path / "larger", 16 * GIB, kv_cache_bytes=2 * GIB)
    with pytest.raises(CommandError) as refused:
        divided(main, large, SECTION, GPU)
    assert str(refused.value).startswith(
        "the draft model does not fit into its part of the GPU's memory: weights of 16.0 GiB, a KV "
        "cache of 2.0 GiB and about 1 GiB more, of 16.0 GiB"
    )
    parallel = replace(large, settings={"tensor_parallel_size": 2})
    divided(main, parallel, SECTION, GPU)


def test_this_machine_is_one_with_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "0")
    machine = this_machine()
    assert machine.cores
    assert machine.memory_bytes > 0
    assert machine.binding == "0"


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ("81559, 81000\n81559, 5\n", (81559 << 20, 81000 << 20)),
        ("[N/A], [N/A]", None),
        ("", None),
    ],
)
def test_the_memory_of_the_first_gpu_counts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, answer: str, found: tuple[int, int] | None
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\nprintf '{answer}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    assert gpu_memory_bytes() == found


def test_the_draft_models_engine_has_its_own_settings_and_the_engines_others() -> None:
    settings = load_settings(
        None,
        {
            "engine": {"offline": True, "vllm": {"max_num_seqs": 64}},
            "speculation": {
                "draft_model": {
                    "model": "small",
                    "kv_cache_bytes": GIB,
                    "tool_call_parser": "xlam",
                    "vllm": {"max_num_seqs": 9},
                }
            },
        },
    )
    resolved = ResolvedModel(
        path_or_name="small",
        display_name="small",
        embedded=False,
        local=False,
        tool_parser=None,
        reasoning_parser=None,
        chat_template=None,
        parser_reason="",
    )
    config = draft_config(settings, resolved)
    assert (config.tool_call_parser, config.kv_cache_bytes, config.offline) == ("xlam", GIB, True)
    assert config.settings == {"max_num_seqs": 9}
    assert not config.drafts


@pytest.mark.parametrize(
    ("cores", "verdict", "told"),
    [
        (1, Verdict.GOOD, "tool parser hermes, asked 5 times, on 1 of 8 cores"),
        (8, Verdict.BAD, "leave at least one core to the engine of the turns"),
    ],
)
def test_the_doctor_says_whether_the_draft_model_fits(
    cores: int, verdict: Verdict, told: str
) -> None:
    section = {"model": "embedded", "samples": 5, "cores": cores}
    settings = load_settings(None, {"speculation": {"draft_model": section}})  # pyright: ignore[reportArgumentType]
    check = check_draft_model(settings, CPU)
    assert check.verdict is verdict
    assert told in check.finding


def test_the_doctor_knows_a_draft_model_that_is_not_there() -> None:
    settings = load_settings(None, {"speculation": {"draft_model": {"model": "./none"}}})
    check = check_draft_model(settings, CPU)
    assert check.verdict is Verdict.BAD
    assert "there is no such folder" in check.finding


def test_a_draft_model_on_a_server_is_asked_as_is_set() -> None:
    section = {
        "model": "xlam",
        "url": "http://localhost:8001/v1",
        "api_key": "secret",
        "tokens_max": 100,
        "timeout_s": 4,
    }
    settings = load_settings(None, {"speculation": {"draft_model": section}})  # pyright: ignore[reportArgumentType]
    config = draft_server(settings, section["url"])  # pyright: ignore[reportArgumentType]
    assert (config.model, config.url, config.api_key) == ("xlam", section["url"], "secret")
    assert (config.step_tokens_max, config.answer_timeout_s, config.turns_max) == (100, 4.0, 16)
    assert not config.streams
    assert settings.speculation.draft_model.used


def test_a_server_alone_is_a_draft_model() -> None:
    section = {"url": "http://localhost:8001/v1"}
    settings = load_settings(None, {"speculation": {"draft_model": section}})  # pyright: ignore[reportArgumentType]
    assert Predictor.DRAFT_MODEL in settings.speculation.limits().most.predictors
