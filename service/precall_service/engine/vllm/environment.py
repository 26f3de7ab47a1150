"""Sets the environment that vLLM reads when it is imported, and describes what vLLM would run on.

Never: vLLM, before the environment is set. A variable that the operator has set keeps its value,
unless precall does not work with it.
"""

from __future__ import annotations

import atexit
import getpass
import importlib
import os
import shutil
import sys
import tempfile
import warnings
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from precall_service.engine.base import EngineStartError
from precall_service.engine.install import INSTALL_ENGINE, installed_engine
from precall_service.engine.vllm.config import Device, VllmConfig
from precall_service.engine.vllm.pin_check import installed_vllm

_DEFAULTS = {
    "VLLM_NO_USAGE_STATS": "1",  # no usage is reported
    "DO_NOT_TRACK": "1",
    "TOKENIZERS_PARALLELISM": "false",  # prompts are tokenised one at a time
    "VLLM_WORKER_SHUTDOWN_TIMEOUT_SECONDS": "2",  # workers have nothing to save
    # torch keeps compiled headers in the temporary folder, which each service has anew: they would
    # be compiled at each start, for some five seconds, although what needs them is kept elsewhere.
    "TORCHINDUCTOR_CPP_CACHE_PRECOMPILE_HEADERS": "0",
    "TORCH_CPP_LOG_LEVEL": "ERROR",  # a CPU worker warns that it binds its memory, as it should
    "PYTHONWARNINGS": "ignore::FutureWarning",  # vLLM's dependencies warn about each other
}
_OWNED = {
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # this process has threads and an event loop
    "VLLM_ENFORCE_STRICT_TOOL_CALLING": "1",  # parsers have no grammars without it
    "VLLM_CONFIGURE_LOGGING": "1",
}
_OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}


def prepare(config: VllmConfig) -> None:
    """Prepares the environment for importing vLLM. Idempotent."""
    _prepare(config.log_level)
    if config.offline or (config.local and not config.beside_hub):
        os.environ.update(_OFFLINE)
    hub: Any = sys.modules.get("huggingface_hub.constants")
    if config.offline and hub is not None:  # already imported, so it has read the environment
        hub.HF_HUB_OFFLINE = True
    if config.device is Device.CPU:
        os.environ["VLLM_TARGET_DEVICE"] = "cpu"
    _use_temporary_folder()
    os.environ["VLLM_ENGINE_READY_TIMEOUT_S"] = str(int(config.start_timeout_s))


@cache
def temporary_folder() -> Path:
    """Returns the folder for temporary files of the engines of this process, made on first use.

    Theirs and no others are in it, so that they can be removed. It is removed at exit.
    """
    folder = Path(tempfile.mkdtemp(prefix="precall-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _use_temporary_folder() -> None:
    """Has vLLM put its sockets, and its processes their temporary files, into a folder of ours.

    What torch compiles stays where torch would keep it, since it serves later starts, too.
    """
    compiled = Path(tempfile.gettempdir()) / f"torchinductor_{_user()}"
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(compiled))
    os.environ.setdefault("VLLM_RPC_BASE_PATH", str(temporary_folder()))
    os.environ["TMPDIR"] = str(temporary_folder())  # `tempfile` in this process has read it before


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return str(os.getuid())


def _prepare(log_level: str) -> None:
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    os.environ.update(_OWNED)
    os.environ["VLLM_LOGGING_LEVEL"] = log_level


def import_vllm() -> None:
    """Imports vLLM without its warnings, which takes some ten seconds.

    Raises:
        EngineStartError: vLLM is not installed, does not load, or lacks what precall needs.
    """
    installed_vllm().require()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module("vllm.v1.engine.async_llm")
    except ImportError as error:
        raise EngineStartError(f"vLLM cannot be imported: {error}. Run {INSTALL_ENGINE}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineEnvironment:
    """What an engine would run on, or the `problem` that keeps one from running, for the user."""

    vllm_version: str = ""
    torch_version: str = ""
    device: str = ""
    device_name: str = ""
    problem: str = ""


def describe_environment(log_level: str) -> EngineEnvironment:
    """Returns what an engine would run on, without starting one. Takes as long as importing vLLM.

    vLLM's own log is shown from `log_level` on, on standard output.
    """
    engine = installed_engine()
    if engine is None:
        return EngineEnvironment(problem=f"vLLM is not installed: run {INSTALL_ENGINE}")
    version = engine.version
    _prepare(log_level)
    try:
        import_vllm()
    except EngineStartError as error:
        return EngineEnvironment(vllm_version=version, problem=str(error))
    # Imported here because the environment has to be prepared first.
    import torch  # noqa: PLC0415
    from vllm.platforms import current_platform  # noqa: PLC0415

    if current_platform.is_unspecified():
        return EngineEnvironment(
            vllm_version=version,
            torch_version=torch.__version__,
            problem="the installed vLLM is for a GPU, and finds none",
        )
    return EngineEnvironment(
        vllm_version=version,
        torch_version=torch.__version__,
        device=current_platform.device_type,
        device_name=current_platform.get_device_name(),
    )
