"""Turns settings into a running service: the model resolved, vLLM started, the port open.

Owns: how the engine is configured from the settings and the model.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from precall_service.app import Service, serve
from precall_service.cli.errors import CommandError
from precall_service.engine.base import Progress
from precall_service.engine.hub import reachable
from precall_service.engine.models import ResolvedModel, resolve_model
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
        CommandError: the chat template cannot be read.
        ModelError: the model is not available.
        AddressInUseError: the port is taken.
        EngineStartError: vLLM is not installed, or the engine cannot start as configured.
    On cancel, or when the block raises: everything is stopped at once.
    """
    engine = settings.engine
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
    factory = VllmEngineFactory(config)
    async with serve(
        settings, factory, model=model.display_name, on_progress=on_progress
    ) as service:
        yield service


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
