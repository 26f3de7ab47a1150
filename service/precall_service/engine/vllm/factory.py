"""Starts embedded engines, without importing vLLM before the first one is asked for."""

from __future__ import annotations

import asyncio

from precall_service.engine.base import Engine, Progress
from precall_service.engine.vllm import environment
from precall_service.engine.vllm.config import VllmConfig


class VllmEngineFactory:
    """An `EngineFactory` for one configuration."""

    def __init__(self, config: VllmConfig) -> None:
        self._config = config

    async def __call__(self, on_progress: Progress) -> Engine:
        """As `EngineFactory`."""
        environment.prepare(self._config)
        on_progress("importing vLLM", None)
        start = await asyncio.to_thread(_import_start)
        return await start(self._config, on_progress)


def _import_start():
    # Here, since it takes some ten seconds and reads the environment as it is then.
    from precall_service.engine.vllm.start import start  # noqa: PLC0415

    return start
