"""Skips GPU tests without a GPU, lets property tests take their time, and shares a Redis server."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Generator
from typing import Any

import hypothesis
import pytest

os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # hostile clients make it log

from tests.support.redis_server import redis_server, shared_redis

__all__ = ["redis_server", "shared_redis"]

# A test asserts behaviour, never speed.
hypothesis.settings.register_profile("precall", deadline=None)
hypothesis.settings.load_profile("precall")


def gpu_missing() -> str | None:
    """Returns why no GPU test can run here, or None."""
    if not shutil.which("nvidia-smi"):
        return "no GPU: nvidia-smi is not installed"
    answer = subprocess.run(["nvidia-smi", "-L"], check=False, capture_output=True, timeout=20)
    return None if answer.returncode == 0 else "no GPU: nvidia-smi finds no GPU"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    gpu_tests = [item for item in items if item.get_closest_marker("gpu")]
    if gpu_tests and (reason := gpu_missing()):
        for item in gpu_tests:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Generator[None, Any, Any]:
    """A worker of xdist can send only text that is valid; some tests log text that is not."""
    report = yield
    text = json.dumps(report, ensure_ascii=False)
    return json.loads(text.encode(errors="replace"))
