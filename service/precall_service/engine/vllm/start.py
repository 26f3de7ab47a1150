"""Starts an engine: configuration in, a VllmEngine that has generated once out.

Owns: the order of a start; turning what vLLM raises meanwhile into words for the operator.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
from collections.abc import Sequence
from pathlib import Path

import psutil
from pydantic import ValidationError
from vllm.config import LoggingConfig
from vllm.config import VllmConfig as EngineConfig
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.platforms import current_platform
from vllm.usage.usage_lib import UsageContext
from vllm.v1.engine.async_llm import AsyncLLM

from precall_service.domain.messages import Transcript, UserMessage
from precall_service.domain.tools import ToolDeclaration
from precall_service.domain.turn import GenerationSettings, ToolChoice, ToolChoiceMode
from precall_service.engine.base import (
    EngineStartError,
    Feature,
    GenerationRefusedError,
    Priority,
    Progress,
    StepSpec,
)
from precall_service.engine.vllm import scheduling
from precall_service.engine.vllm.arguments import engine_arguments
from precall_service.engine.vllm.assembly import PROBE_TOOL, assemble, chosen_parsers
from precall_service.engine.vllm.config import Device, VllmConfig
from precall_service.engine.vllm.engine import VllmEngine
from precall_service.engine.vllm.logs import StartError, StartLog
from precall_service.engine.vllm.threads import in_daemon_thread

log = logging.getLogger(__name__)

_CONFIGURATION_ERRORS = frozenset(
    error.__name__
    for error in (ValidationError, ValueError, TypeError, OSError, ImportError, NotImplementedError)
) | {"KeyError", "FileNotFoundError", "ModuleNotFoundError", "PermissionError"}
"""What vLLM raises when trying again will not help, by name: most come from other processes."""


async def start(config: VllmConfig, on_progress: Progress) -> VllmEngine:
    """A running engine.

    Raises:
        EngineStartError: it cannot start as configured.
        RuntimeError: it did not start this time.
    On cancel: its processes are killed.
    """
    async with StartLog(on_progress, config.log_level) as start_log:
        try:
            on_progress("reading the model's configuration", None)
            engine_config = await in_daemon_thread(
                lambda: _engine_config(config, start_log.config_path)
            )
            on_progress("starting the engine's processes", None)
            llm = await _launched(engine_config)
        except EngineStartError:
            raise
        except Exception as error:  # whatever vLLM and its dependencies raise
            raise _failure(error, start_log.errors) from error
    engine = assemble(llm, config)
    try:
        on_progress("generating for the first time", None)
        await _warm_up(engine)
    except BaseException:
        await engine.close()
        raise
    return engine


def _engine_config(config: VllmConfig, logging_config: Path) -> EngineConfig:
    """VLLM's configuration. Reads the model's files, and fetches them from a hub if need be."""
    _check_device(config.device)
    arguments = engine_arguments(config, on_cpu=current_platform.is_cpu())
    if not _has_remote_processes(arguments):  # they see neither this machine's files nor sockets
        arguments.logging_config = LoggingConfig(pylogging_config_file=str(logging_config))
    # Grammars begin where the reasoning ends, which the engine must be able to tell.
    parsers = chosen_parsers(config, arguments.create_model_config())
    arguments.reasoning_parser = parsers.reasoning or ""
    engine_config = arguments.create_engine_config(UsageContext.ENGINE_CONTEXT)
    scheduler = engine_config.scheduler_config
    name = "AsyncScheduler" if scheduler.async_scheduling else "Scheduler"
    scheduler.scheduler_cls = f"{scheduling.__name__}.{name}"
    if not engine_config.cache_config.enable_prefix_caching:
        log.warning("vLLM has no prefix cache for this model: each step computes its whole prompt")
    return engine_config


def _check_device(device: Device) -> None:
    if current_platform.is_unspecified():
        raise EngineStartError(
            "no GPU was found, and this build of vLLM needs one: check nvidia-smi, or install "
            "precall-service[cpu] to run on the CPU"
        )
    if device is Device.GPU and current_platform.is_cpu():
        raise EngineStartError(
            "a GPU was asked for, and the build of vLLM that is installed is for the CPU: install "
            "precall-service[gpu], or leave --device out"
        )
    if device is Device.CPU and not current_platform.is_cpu():
        raise EngineStartError(
            "the CPU was asked for, and the build of vLLM that is installed is for a GPU: install "
            "precall-service[cpu], or leave --device out"
        )


def _has_remote_processes(arguments: AsyncEngineArgs) -> bool:
    return (
        arguments.distributed_executor_backend == "ray"
        or arguments.data_parallel_backend == "ray"
        or arguments.nnodes > 1
    )


async def _launched(engine_config: EngineConfig) -> AsyncLLM:
    """An AsyncLLM whose processes run. On cancel: they are killed."""
    before = set(multiprocessing.active_children())
    try:
        return await in_daemon_thread(lambda: AsyncLLM.from_vllm_config(engine_config))
    except BaseException:
        for process in set(multiprocessing.active_children()) - before:
            _kill(process.pid)
        raise


def _kill(pid: int | None) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for each in (*process.children(recursive=True), process):
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()


def _failure(error: Exception, errors: Sequence[StartError]) -> Exception:
    """What went wrong first, in whichever process, told apart by whether a retry may help."""
    if errors:
        kind, message = errors[0].kind, errors[0].message
    else:
        kind, message = type(error).__name__, str(error)
    message = _plain(message)
    if kind in _CONFIGURATION_ERRORS:
        return EngineStartError(f"the engine cannot start: {message}")
    return RuntimeError(f"the engine did not start: {kind}: {message}")


def _plain(message: str) -> str:
    """Pydantic frames what a validator says in lines of its own; only what it says is kept."""
    for line in message.splitlines():
        said = line.strip()
        if said.startswith(("Value error, ", "Assertion failed, ")):
            return said.split(", ", 1)[1].split(" [type=")[0]
    return message.strip()


async def _warm_up(engine: VllmEngine) -> None:
    """Generates once, and once held to a schema: what is built on first use is there afterwards."""
    transcript = Transcript(messages=(UserMessage(text="Hello"),))
    try:
        prompt = await engine.render(transcript)
    except GenerationRefusedError as error:
        raise EngineStartError(f"{error}. Name one that fits with --chat-template") from error
    choices: list[tuple[tuple[ToolDeclaration, ...], ToolChoice]] = [((), ToolChoice())]
    if Feature.STRUCTURED_CALLS in engine.info.features:
        choices.append(((PROBE_TOOL,), ToolChoice(mode=ToolChoiceMode.REQUIRED)))
    for number, (tools, choice) in enumerate(choices):
        spec = StepSpec(
            step_id=f"warm-up-{number}",
            max_tokens=2,
            generation=GenerationSettings(temperature=0.0),
            tools=tools,
            tool_choice=choice,
            priority=Priority.STARTS_TURN,
        )
        async for _ in engine.generate(prompt, spec):
            pass
    await engine.load()
