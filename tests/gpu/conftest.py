"""Shares one real engine on a GPU. Without a GPU, every test here is skipped with a reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.engine_fixtures import (
    engine_keeper,
    kill_engine,
    share_engine,
    vllm_engine,
    vllm_factory,
)

__all__ = ["engine_keeper", "kill_engine", "vllm_engine", "vllm_factory"]


@pytest.hookimpl(tryfirst=True)  # the root conftest looks for the marker
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.gpu)
    share_engine(items, here)
