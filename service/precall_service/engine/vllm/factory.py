"""Starts embedded engines, without importing vLLM before the first one is asked for."""

from __future__ import annotations

from precall_service.engine.base import Engine, Progress
from precall_service.engine.vllm import environment
from precall_service.engine.vllm.config import VllmConfig
from precall_service.engine.vllm.threads import in_daemon_thread


class VllmEngineFactory:
    """An `EngineFactory` for one configuration."""

    def __init__(self, config: VllmConfig) -> None:
        self._config = config

    async def __call__(self, on_progress: Progress) -> Engine:
        """As `EngineFactory`. Takes from half a minute to many.

        On cancel: the engine's processes are killed.
        """
        environment.prepare(self._config)
        on_progress("importing vLLM", None)
        await in_daemon_thread(environment.import_vllm)
        # Here, since it imports vLLM, which reads the environment as it is then.
        from precall_service.engine.vllm.start import start  # noqa: PLC0415

        return await start(self._config, on_progress)
