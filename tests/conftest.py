"""Skips GPU tests without a GPU, and shares out what there is one of: engine, Redis, processor."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Generator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # hostile clients make it log

from tests.support.redis_server import redis_server, shared_redis

__all__ = ["redis_server", "shared_redis"]

INTEGRATION = Path(__file__).parent / "integration"
NICENESS = 5
"""That of tests without an engine: they get a third of a core that an engine wants, too."""

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


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> None:
    """Beside an engine, the tests without one take what it leaves of the processor.

    A process cannot take that back, but tests with an engine come first.
    """
    beside = "PYTEST_XDIST_WORKER" in os.environ and not item.path.is_relative_to(INTEGRATION)
    if beside and os.nice(0) < NICENESS:
        os.nice(NICENESS)


class OneEngine(LoadScopeScheduling):
    """Has one process run all tests that need an engine, from the beginning on.

    The others are given to any process, one by one. (`--dist loadgroup` of xdist 3.8 knows no group
    with pytest 9.2.)
    """

    def _split_scope(self, nodeid: str) -> str:
        folder = INTEGRATION.relative_to(self.config.rootpath).as_posix()
        return folder if nodeid.startswith(f"{folder}/") else nodeid


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> OneEngine:
    return OneEngine(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Generator[None, Any, Any]:
    """A worker of xdist can send only text that is valid; some tests log text that is not."""
    report = yield
    text = json.dumps(report, ensure_ascii=False)
    return json.loads(text.encode(errors="replace"))
