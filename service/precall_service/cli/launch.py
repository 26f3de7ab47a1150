"""Turns settings into a running service: the model found, its engine started, the port open.

Owns: how the engine is configured from the settings and the model.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from precall_service.app import Service, serve
from precall_service.cli.division import divided, this_machine
from precall_service.cli.errors import CommandError
from precall_service.cli.heap import quiet_heap
from precall_service.domain.events import Predictor
from precall_service.domain.speculation import SpeculationMode
from precall_service.engine.base import EngineFactory, Progress
from precall_service.engine.hub import reachable
from precall_service.engine.model_files import ModelError
from precall_service.engine.models import ResolvedModel, resolve_model
from precall_service.engine.openai.config import PROBE_S, OpenAiConfig, SettingNames
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
        CommandError: the chat template cannot be read, settings contradict each other, or the draft
            model is not available or does not fit beside the model.
        ModelError: the model is not available.
        AddressInUseError: the port is taken.
        EngineStartError: vLLM is not installed, or the engine cannot start as configured.
    On cancel, or when the block raises: everything is stopped at once.
    """
    draft = await _draft(settings, on_progress)
    factory, model, draft_factory = await _factories(settings, engine_arguments, draft, on_progress)
    async with serve(
        settings, factory, model=model, on_progress=on_progress, draft_factory=draft_factory
    ) as service:
        with quiet_heap(service):
            yield service


async def _draft(settings: Settings, on_progress: Progress) -> VllmConfig | OpenAiConfig | None:
    """Returns the configuration of the draft model's engine, if there is to be one.

    Raises:
        CommandError: the draft model is not available.
    """
    section, most = settings.speculation.draft_model, settings.speculation.limits().most
    if most.mode is SpeculationMode.OFF or Predictor.DRAFT_MODEL not in most.predictors:
        return None
    if section.url is not None:
        return draft_server(settings, section.url)
    try:
        model = await in_daemon_thread(
            lambda: resolve_model(
                section.model, cache_dir=settings.engine.cache_dir, on_progress=on_progress
            )
        )
        return await _asking_hub(draft_config(settings, model), on_progress, local=model.local)
    except ModelError as error:
        raise CommandError(f"the draft model (speculation.draft_model.model): {error}") from None


async def _factories(
    settings: Settings,
    engine_arguments: tuple[str, ...],
    draft: VllmConfig | OpenAiConfig | None,
    on_progress: Progress,
) -> tuple[EngineFactory, str, EngineFactory | None]:
    """Returns what starts the engine, the name of its model, and what starts the draft model's."""
    engine = settings.engine
    if engine.backend == "openai":
        if engine_arguments:
            raise CommandError("arguments of vLLM after -- need --backend vllm")
        from precall_service.engine.openai.factory import model_name

        # Clients may name the model, so its name has to be known before they come.
        server = openai_config(settings)
        name = await model_name(server)
        main = _of(replace(server, model=name))
        return main, name, None if draft is None else _of(draft)
    if settings.openai.url is not None:
        raise CommandError("--url needs --backend openai")
    # Ctrl-C does not wait for this thread: an interrupted conversion leaves no model folder behind.
    model = await in_daemon_thread(
        lambda: resolve_model(engine.model, cache_dir=engine.cache_dir, on_progress=on_progress)
    )
    config = engine_config(settings, model, engine_arguments)
    config = await _asking_hub(config, on_progress, local=model.local)
    if isinstance(draft, VllmConfig):
        section = settings.speculation.draft_model
        config, draft = divided(config, draft, section, this_machine())
        config = replace(config, beside_hub=not draft.local)
        draft = replace(draft, beside_hub=not config.local)
    return _of(config), model.display_name, None if draft is None else _of(draft)


def _of(config: VllmConfig | OpenAiConfig) -> EngineFactory:
    if isinstance(config, VllmConfig):
        return VllmEngineFactory(config)
    from precall_service.engine.openai.factory import OpenAiEngineFactory

    return OpenAiEngineFactory(config)


async def _asking_hub(config: VllmConfig, on_progress: Progress, *, local: bool) -> VllmConfig:
    """Returns the configuration, offline if the hub has to be asked for its model but is silent."""
    if local or config.offline:
        return config
    on_progress(f"asking the hub for {config.model}", None)
    # If the hub does not answer, vLLM would ask it again for minutes.
    return replace(config, offline=not await in_daemon_thread(lambda: reachable(config.model)))


def draft_server(settings: Settings, url: str) -> OpenAiConfig:
    """Returns how the server is reached that has the draft model.

    Samples are read as a whole unless that is set, since some servers stream the arguments of calls
    wrongly.
    """
    section = settings.speculation.draft_model
    return OpenAiConfig(
        url=url,
        model=section.model,
        api_key=section.api_key.get_secret_value(),
        turns_max=section.samples_running_max,
        context_tokens_max=None,
        step_tokens_max=section.tokens_max,
        limit_field=settings.openai.limit_field,
        connect_timeout_s=settings.openai.connect_timeout_s,
        answer_timeout_s=section.timeout_s,
        tries_max=1,
        share_prefix_cache=settings.engine.share_prefix_cache,
        streams=section.streams,
        probe_s=probe_s(settings),
        names=SettingNames(
            url="speculation.draft_model.url",
            model="speculation.draft_model.model",
            api_key="speculation.draft_model.api_key",
        ),
    )


def probe_s(settings: Settings) -> float:
    """Returns how often a server is asked for a sign of life: before its silence is noticed."""
    return min(PROBE_S, settings.engine.hung_notice_s / 3)


def draft_config(settings: Settings, model: ResolvedModel) -> VllmConfig:
    """Returns the configuration of the draft model's engine, as far as it is not shared out."""
    engine, section = settings.engine, settings.speculation.draft_model
    return VllmConfig(
        model=model.path_or_name,
        model_name=model.display_name,
        tool_call_parser=section.tool_call_parser or model.tool_parser,
        reasoning_parser=model.reasoning_parser,
        reasoning_tokens_max=model.reasoning_tokens_max,
        structured_calls=engine.structured_calls,
        drafts=False,  # several samples at once leave no room for them
        device=Device(engine.device),
        kv_cache_bytes=section.kv_cache_bytes,
        share_prefix_cache=engine.share_prefix_cache,
        offline=engine.offline,
        log_level=engine.log_level,
        start_timeout_s=engine.start_timeout_s,
        stop_timeout_s=engine.stop_timeout_s,
        settings=section.vllm,
    )


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
        probe_s=probe_s(settings),
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
