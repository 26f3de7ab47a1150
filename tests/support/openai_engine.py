"""The remote backend on a scripted server."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from precall_service.engine.base import Engine, StepSpec
from precall_service.engine.openai.config import OpenAiConfig
from precall_service.engine.openai.factory import OpenAiEngineFactory
from tests.support.openai_server import OpenAiServer, Sent
from tests.support.steps import Said, asked, declared, heard, step_spec

WEATHER = declared("get_weather")
QUESTION = asked("How is the weather?", WEATHER, system_prompt="Be brief.")


def config(url: str, **settings: Any) -> OpenAiConfig:
    base: dict[str, Any] = {
        "url": url,
        "model": "tiny",
        "api_key": "a secret",
        "turns_max": 4,
        "context_tokens_max": None,
        "step_tokens_max": 4096,
        "limit_field": "max_tokens",
        "connect_timeout_s": 5.0,
        "answer_timeout_s": 5.0,
        "tries_max": 1,
        "share_prefix_cache": False,
    }
    return OpenAiConfig(**(base | settings))


async def connected(server: OpenAiServer, **settings: Any) -> Engine:
    return await OpenAiEngineFactory(config(server.url, **settings))(lambda _stage, _done: None)


@asynccontextmanager
async def engine_on(server: OpenAiServer, **settings: Any) -> AsyncGenerator[Engine]:
    async with server.running():
        engine = await connected(server, **settings)
        try:
            yield engine
        finally:
            await engine.close()


async def answered(*answers: Sent, spec: StepSpec | None = None, **settings: Any) -> Said:
    """What is read of the last of the answers."""
    server = OpenAiServer(answers)
    async with engine_on(server, **settings) as engine:
        prompt = await engine.render(QUESTION)
        return await heard(engine.generate(prompt, spec or step_spec(tools=(WEATHER,))))
