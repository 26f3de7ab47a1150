"""Starts engines. vLLM is imported when the first one is started, not before."""

from __future__ import annotations

from precall_service.engine.base import Engine, EngineStartError, Progress
from precall_service.engine.install import INSTALL_ENGINE, install_command, installed_engine
from precall_service.engine.vllm import environment
from precall_service.engine.vllm.config import Device, VllmConfig
from precall_service.engine.vllm.threads import in_daemon_thread


class VllmEngineFactory:
    """An `EngineFactory` for one configuration."""

    def __init__(self, config: VllmConfig) -> None:
        self._config = config

    async def __call__(self, on_progress: Progress) -> Engine:
        """As `EngineFactory`. Takes half a minute for a small model, many minutes for a large one.

        On cancel: the engine's processes are killed.
        """
        _check_device(self._config.device)
        environment.prepare(self._config)
        on_progress("importing vLLM", None)
        await in_daemon_thread(environment.import_vllm)
        # Imported here because it imports vLLM, which reads the environment when it is imported.
        from precall_service.engine.vllm.start import start  # noqa: PLC0415

        return await start(self._config, on_progress)


def _check_device(device: Device) -> None:
    """Refuses at once what would otherwise fail after ten seconds, when vLLM has been imported."""
    engine = installed_engine()
    if engine is None:
        raise EngineStartError(
            f"vLLM, which runs the model, is not installed: run {INSTALL_ENGINE}"
        )
    if device not in {Device.AUTO, Device(engine.device)}:
        raise EngineStartError(
            f"--device {device.value} was asked for, but the installed vLLM "
            f"({engine.distribution}) runs on a {engine.device.upper()}: run "
            f"`{install_command(device.value)}`, or leave --device out"
        )
