"""One real engine on the embedded model for the whole session, with one event loop.

The engine starts for the first test that uses it, and again after a test that killed it. Tests that
kill it (`kill_engine`) run after the others, and last come those that start other engines in its
place (`no_shared_engine`).
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.engine_fixtures import (
    engine_keeper,
    kill_engine,
    no_shared_engine,
    share_engine,
    vllm_engine,
    vllm_factory,
)

__all__ = ["engine_keeper", "kill_engine", "no_shared_engine", "vllm_engine", "vllm_factory"]


@pytest.hookimpl(trylast=True)  # after random ordering
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    share_engine(items, Path(__file__).parent)
