"""Turns settings into a running service: the model found, its engine started, the port open.

Owns: how the engine is configured from the settings and the model.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from precall_service.app import Service, serve
from precall_service.cli.errors import CommandError
from precall_service.engine.base import EngineFactory, Progress
from precall_service.engine.hub import reachable
from precall_service.engine.models import ResolvedModel, resolve_model
from precall_service.engine.openai.config import OpenAiConfig
from precall_service.engine.vllm.config import Device, VllmConfig
from precall_service.engine.vllm.factory import VllmEngineFactory
from precall_service.engine.vllm.threads import in_daemon_thread
from precall_service.settings import Settings


@asynccontextmanager
async def launched(
    settings: Settings, engine_arguments: tuple[str, ...], on_progress: Progress
) -> AsyncGenerator[Service]:
    """Yields a service that runs until the end of the block.

    `on_progress` is called from several threads.

    Raises:
        CommandError: the chat template cannot be read, or settings contradict each other.
        ModelError: the model is not available.
        AddressInUseError: the port is taken.
        EngineStartError: vLLM is not installed, or the engine cannot start as configured.
    On cancel, or when the block raises: everything is stopped at once.
    """
    factory, model = await _factory(settings, engine_arguments, on_progress)
    async with serve(settings, factory, model=model, on_progress=on_progress) as service:
        yield service


async def _factory(
    settings: Settings, engine_arguments: tuple[str, ...], on_progress: Progress
) -> tuple[EngineFactory, str]:
    """Returns what starts the engine, and the name of its model as far as it is known by now."""
    engine = settings.engine
    if engine.backend == "openai":
        if engine_arguments:
            raise CommandError("arguments of vLLM after -- need --backend vllm")
        from precall_service.engine.openai.factory import OpenAiEngineFactory

        return OpenAiEngineFactory(openai_config(settings)), engine.model or ""
    if settings.openai.url is not None:
        raise CommandError("--url needs --backend openai")
    # Ctrl-C does not wait for this thread: an interrupted conversion leaves no model folder behind.
    model = await in_daemon_thread(
        lambda: resolve_model(engine.model, cache_dir=engine.cache_dir, on_progress=on_progress)
    )
    config = engine_config(settings, model, engine_arguments)
    if not (model.local or config.offline):
        on_progress("asking the hub for the model", None)
        # If the hub does not answer, vLLM would ask it again for minutes.
        config = replace(
            config, offline=not await in_daemon_thread(lambda: reachable(config.model))
        )
    return VllmEngineFactory(config), model.display_name


def openai_config(settings: Settings) -> OpenAiConfig:
    """Returns how the server is reached that takes the place of an engine.

    Raises:
        CommandError: the settings do not say where it is.
    """
    server = settings.openai
    if server.url is None:
        raise CommandError("--backend openai needs --url, such as http://localhost:8000/v1")
    return OpenAiConfig(
        model=settings.engine.model,
        share_prefix_cache=settings.engine.share_prefix_cache,
        api_key=server.api_key.get_secret_value(),
        **server.model_dump(exclude={"api_key"}),
    )


def engine_config(
    settings: Settings, model: ResolvedModel, engine_arguments: tuple[str, ...] = ()
) -> VllmConfig:
    """Returns the engine's configuration; parsers that the settings leave out come from the model.

    Raises:
        CommandError: the chat template cannot be read.
    """
    engine = settings.engine
    return VllmConfig(
        model=model.path_or_name,
        model_name=model.display_name,
        chat_template=None if engine.chat_template is None else _template(engine.chat_template),
        tool_call_parser=engine.tool_call_parser or model.tool_parser,
        reasoning_parser=engine.reasoning_parser or model.reasoning_parser,
        reasoning_tokens_max=engine.reasoning_tokens_max or model.reasoning_tokens_max,
        structured_calls=engine.structured_calls,
        drafts=engine.drafts,
        device=Device(engine.device),
        kv_cache_bytes=engine.kv_cache_bytes,
        share_prefix_cache=engine.share_prefix_cache,
        offline=engine.offline,
        log_level=engine.log_level,
        start_timeout_s=engine.start_timeout_s,
        stop_timeout_s=engine.stop_timeout_s,
        arguments=engine_arguments,
        settings=engine.vllm,
    )


def _template(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise CommandError(
            f"the chat template {path} cannot be read: {reason}. Check --chat-template"
        ) from None
