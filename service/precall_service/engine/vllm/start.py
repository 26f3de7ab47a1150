"""Starts an engine: configuration in, a VllmEngine that has generated once out.

Owns: the order of a start, and turning vLLM's exceptions into messages for the operator.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import ValidationError
from vllm.config import LoggingConfig, ModelConfig
from vllm.config import VllmConfig as EngineConfig
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.platforms import current_platform
from vllm.usage.usage_lib import UsageContext

from precall_service.domain.messages import Transcript, UserMessage
from precall_service.domain.tools import ToolDeclaration
from precall_service.domain.turn import GenerationSettings, ToolChoice, ToolChoiceMode
from precall_service.engine.base import (
    EngineStartError,
    Feature,
    Priority,
    Progress,
    StepSpec,
    TemplateRefusedError,
)
from precall_service.engine.drafts import Draft
from precall_service.engine.install import install_command
from precall_service.engine.vllm import probes, utilities
from precall_service.engine.vllm.arguments import engine_arguments
from precall_service.engine.vllm.assembly import assemble
from precall_service.engine.vllm.config import VllmConfig
from precall_service.engine.vllm.drafting import prepare_for_drafts, scheduler_for_drafts
from precall_service.engine.vllm.engine import VllmEngine
from precall_service.engine.vllm.grammar_process import GrammarProcess
from precall_service.engine.vllm.launching import launched
from precall_service.engine.vllm.logs import StartError, StartLog
from precall_service.engine.vllm.methods import check_method, given_method
from precall_service.engine.vllm.parts import chosen_parsers
from precall_service.engine.vllm.pin_check import installed_vllm
from precall_service.engine.vllm.processes import EngineProcesses
from precall_service.engine.vllm.threads import in_daemon_thread

log = logging.getLogger(__name__)

_OPERATORS_ERRORS = frozenset(
    error.__name__
    for error in (
        ValidationError,
        ValueError,
        TypeError,
        KeyError,
        OSError,
        FileNotFoundError,
        PermissionError,
        ImportError,
        ModuleNotFoundError,
        NotImplementedError,
    )
) | {"OutOfMemoryError"}  # torch's
"""What vLLM raises when its arguments do not fit the model or the machine, by name because most are
raised in other processes. They may also be temporary: memory in use by others is a ValueError."""

_CALL_TOKENS = 32
"""Enough for a call without arguments, most of which is verified from a draft."""

_WORKERS = {
    "vllm.v1.worker.cpu_worker.CPUWorker": "precall_service.engine.vllm.cpu_worker.CPUWorker"
}
"""vLLM's workers that ours replace. By name, since each imports only with its own build of vLLM."""
_DRAFT_WORKERS = {
    "vllm.v1.worker.gpu_worker.Worker": "precall_service.engine.vllm.gpu_worker.Worker"
}
"""The same for an engine that verifies drafts."""


async def start(config: VllmConfig, on_progress: Progress) -> VllmEngine:
    """Returns a running engine.

    Raises:
        EngineStartError: the engine cannot start as configured.
        RuntimeError: the engine did not start this time.
    On cancel: its processes are killed.
    """
    grammars = GrammarProcess()
    try:
        return await _started(config, on_progress, grammars)
    except BaseException:
        await grammars.close()
        raise


async def _started(
    config: VllmConfig, on_progress: Progress, grammars: GrammarProcess
) -> VllmEngine:
    async with StartLog(config.log_level) as start_log:
        try:
            on_progress("reading the model's configuration", None)
            engine_config = await in_daemon_thread(
                lambda: created_config(config, start_log.config_path)
            )
            # vLLM reports nothing in between that a program could read.
            on_progress("starting the engine and loading the model", None)
            await grammars.spawn()  # it imports while the engine does
            engine_launched = await launched(engine_config, config.cores)
        except EngineStartError:
            raise
        except Exception as error:  # whatever vLLM and its dependencies raise
            raise _failure(error, start_log.errors) from error
    processes = EngineProcesses(engine_launched)
    try:
        engine = await assemble(engine_launched.llm, processes, grammars, config)
        on_progress("generating for the first time", None)
        await _first_generated(engine, config.start_timeout_s)
    except BaseException:
        await processes.close(config.stop_timeout_s)
        raise
    return engine


def created_config(config: VllmConfig, logging_config: Path | None = None) -> EngineConfig:
    """Returns vLLM's configuration. Reads the model's files, fetching them from a hub if needed.

    `logging_config` is the file by which the processes of an engine log.

    Raises:
        EngineStartError: an argument is unknown or cannot be set, or there is no GPU to run on.
    """
    if current_platform.is_unspecified():
        raise EngineStartError(
            "no GPU was found, and the installed vLLM needs one: check nvidia-smi, or run "
            f"`{install_command('cpu')}` for the CPU"
        )
    arguments = engine_arguments(config, on_cpu=current_platform.is_cpu())
    # Remote processes see neither files nor sockets here.
    if logging_config and not _has_remote_processes(arguments):
        arguments.logging_config = LoggingConfig(pylogging_config_file=str(logging_config))
    # Grammars begin where the reasoning ends, so the engine has to recognise its end.
    model_config = arguments.create_model_config()
    parsers = chosen_parsers(config, model_config)
    arguments.reasoning_parser = parsers.reasoning or ""
    drafting = _prepare_speculation(arguments, model_config, config)
    engine_config = _drafting_config(drafting) or _plain_config(arguments)
    if not engine_config.cache_config.enable_prefix_caching:
        log.warning("vLLM has no prefix cache for this model: each step computes its whole prompt")
    return engine_config


def _drafting_config(arguments: AsyncEngineArgs | None) -> EngineConfig | None:
    """The configuration of an engine that verifies drafts; None if it cannot."""
    if arguments is None:
        return None
    config = arguments.create_engine_config(UsageContext.ENGINE_CONTEXT)
    scheduler = scheduler_for_drafts(config, on_cpu=current_platform.is_cpu())
    return None if scheduler is None else _with_ours(config, scheduler, _WORKERS | _DRAFT_WORKERS)


def _plain_config(arguments: AsyncEngineArgs) -> EngineConfig:
    """The configuration of an engine that verifies none."""
    config = arguments.create_engine_config(UsageContext.ENGINE_CONTEXT)
    plain = "AsyncScheduler" if config.scheduler_config.async_scheduling else "Scheduler"
    return _with_ours(config, f"{utilities.__name__}.{plain}", _WORKERS)


def _with_ours(config: EngineConfig, scheduler: str, workers: Mapping[str, str]) -> EngineConfig:
    config.scheduler_config.scheduler_cls = scheduler
    parallel = config.parallel_config
    parallel.worker_cls = workers.get(parallel.worker_cls, parallel.worker_cls)
    return config


def _prepare_speculation(
    arguments: AsyncEngineArgs, model_config: ModelConfig, config: VllmConfig
) -> AsyncEngineArgs | None:
    """The arguments of an engine that verifies drafts, if it can.

    The operator's own method of vLLM's is checked, too.

    Raises:
        EngineStartError: vLLM cannot use the method here.
    """
    method = given_method(arguments)
    if method is not None:
        check_method(method, model_config, installed_vllm())
    return prepare_for_drafts(
        arguments, method, model_config, on_cpu=current_platform.is_cpu(), asked=config.drafts
    )


def _has_remote_processes(arguments: AsyncEngineArgs) -> bool:
    return (
        arguments.distributed_executor_backend == "ray"
        or arguments.data_parallel_backend == "ray"
        or arguments.nnodes > 1
    )


def _failure(error: Exception, errors: Sequence[StartError]) -> Exception:
    """Returns the first error of any process, as the type that says who can act on it."""
    if errors:
        kind, message = errors[0].kind, errors[0].message
    else:
        kind, message = type(error).__name__, str(error)
    message = _plain(message)
    if kind in _OPERATORS_ERRORS:
        return EngineStartError(f"the engine cannot start: {message}")
    return RuntimeError(f"the engine did not start: {kind}: {message}")


def _plain(message: str) -> str:
    """Returns a validator's own words, without the lines that pydantic puts around them."""
    for line in message.splitlines():
        said = line.strip()
        if said.startswith(("Value error, ", "Assertion failed, ")):
            return said.split(", ", 1)[1].split(" [type=")[0]
    return message.strip()


async def _first_generated(engine: VllmEngine, timeout_s: float) -> None:
    """Returns when the engine has generated.

    Raises:
        EngineStartError: its template refuses every message.
        RuntimeError: it does not generate in time, or makes no grammars.
    """
    try:
        async with asyncio.timeout(timeout_s):
            await _warm_up(engine)
    except TimeoutError:
        raise RuntimeError(
            f"the engine did not start: it has not generated within {timeout_s:g} s, "
            "engine.start_timeout_s"
        ) from None


async def _warm_up(engine: VllmEngine) -> None:
    """Generates freely, as a branch does, and with drafts: nothing is built on first use."""
    transcript = Transcript(messages=(UserMessage(text="Hello"),))
    try:
        prompt = await engine.render(transcript)
    except TemplateRefusedError as error:
        raise EngineStartError(f"{error}. Name one that fits with --chat-template") from error
    choices: list[tuple[tuple[ToolDeclaration, ...], ToolChoice]] = [((), ToolChoice())]
    if Feature.STRUCTURED_CALLS in engine.info.features:
        (loosened,) = await engine.judge([probes.TOOL], tenant="")
        if loosened:
            raise RuntimeError(f"the engine did not start: {loosened[0].reason}")
        choices.append(((probes.TOOL,), ToolChoice(mode=ToolChoiceMode.REQUIRED)))
    drafts = (Draft(probes.TOOL.name, "{}"),)
    for number, (tools, choice) in enumerate(choices):
        spec = StepSpec(
            step_id=f"warm-up-{number}",
            max_tokens=_CALL_TOKENS if tools else 4,
            generation=GenerationSettings(temperature=0.0),
            tools=tools,
            tool_choice=choice,
            priority=Priority.STARTS_TURN,
            tenant="",
            log_probabilities=bool(tools),
            drafts=drafts if tools else (),
        )
        async for _ in engine.generate(prompt, spec):
            pass
    await engine.load()
