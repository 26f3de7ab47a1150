"""Connects to servers."""

from __future__ import annotations

import logging

from precall_service.engine.base import Engine, Progress
from precall_service.engine.openai.config import OpenAiConfig
from precall_service.engine.openai.connection import connected
from precall_service.engine.openai.engine import OpenAiEngine

log = logging.getLogger(__name__)


async def model_name(config: OpenAiConfig) -> str:
    """Returns the name of the server's model, which the server is asked for if it is not set.

    Raises:
        EngineStartError: the server does not answer, or does not have one model alone.
    """
    if config.model is not None:
        return config.model
    client, model = await connected(config)
    await client.close()
    return model.name


class OpenAiEngineFactory:
    """An `EngineFactory` for one server."""

    def __init__(self, config: OpenAiConfig) -> None:
        self._config = config

    async def __call__(self, on_progress: Progress) -> Engine:
        """As `EngineFactory`. Asks the server for its models, and generates nothing."""
        on_progress(f"asking {self._config.url} for its models", None)
        client, model = await connected(self._config)
        if not (model.on_vllm or self._config.share_prefix_cache):
            log.warning(
                "the server at %s may share its prefix cache among the tenants of this service: it "
                "does not say that it is vLLM's, which can part it",
                self._config.url,
            )
        return OpenAiEngine(client, self._config, model)
